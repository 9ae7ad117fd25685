"""From a configuration, or from a module of the caller's, to a model that can be served; knows no method."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from whylight.errors import InvalidInput, NotFound
from whylight.method import Need
from whylight.models.attention import find_attention
from whylight.models.companion import Companion
from whylight.models.config import ModelConfig, Precision
from whylight.models.detections import Boxes, is_listed, limit_of, packed
from whylight.models.device import usable_device
from whylight.models.model import DTYPES, LayerInfo, Model
from whylight.models.ownership import own_copy
from whylight.models.prepare import fold_batch_norm, narrow_weights, use_channels_last
from whylight.models.probe import example_companions, example_inputs
from whylight.models.selector import select
from whylight.models.source import ModelSource, OpenedModel, PythonSource
from whylight.models.survey import Survey
from whylight.models.tokens import find_last_tokens
from whylight.models.transform import Transform
from whylight.models.weights import digest_of, load_weights, random_weights
from whylight.subject.attention import FindAttention
from whylight.subject.backward_rule import FindRelu, under
from whylight.subject.gap_head import find_gap_head
from whylight.subject.invariance import CountCalls, make_batch_invariant
from whylight.subject.run import install_hooks, watching

CPU_BUDGET = 2 << 30


def open_model(
    config: ModelConfig, sources: Mapping[str, type[ModelSource]], device: str | torch.device = "cpu"
) -> Model:
    """Open, prepare and examine the model that `config` describes. `sources` are by scheme; ``python`` is built in.

    Raises:
        NotFound: no such scheme, model or file (reason MODEL_NOT_FOUND).
        InvalidInput: the weights do not fit or have another digest (DIGEST_MISMATCH), the output is ambiguous, a
            library or the device is missing; `field` names the option.
    """
    where = usable_device(device)
    opened = _open(config, sources)
    _fill(opened.module, config.weights)
    if config.digest is not None and (found := digest_of(opened.module)) != config.digest:
        raise InvalidInput(
            f"the weights of {config.name!r} have the digest {found}, not {config.digest}",
            reason="DIGEST_MISMATCH",
            field="digest",
        )
    transform = opened.transform if config.input_size is None else opened.transform.resized(config.input_size)
    return _build(
        own_copy(opened.module),
        name=config.name,
        source=config.source,
        transform=transform,
        labels=opened.labels if config.labels is None else read_labels(Path(config.labels)),
        device=where,
        input_size=config.input_size,
        output=config.output or opened.output,
        latent=config.latent or opened.latent,
        precision=config.precision,
        channels_last=config.channels_last,
        fold=config.fold_batch_norm,
        compiled=config.compile,
        budget=config.memory_budget_bytes,
        companions={**opened.companions, **config.companions},
        boxes=config.boxes,
        last_spatial=config.last_spatial or opened.last_spatial,
    )


def wrap_module(
    module: nn.Module,
    *,
    name: str = "module",
    transform: Transform | None = None,
    labels: tuple[str, ...] = (),
    device: str | torch.device | None = None,
    input_size: tuple[int, int] | None = None,
    output: str | None = None,
    latent: str | None = None,
    precision: Precision = "float32",
    channels_last: Literal["auto"] | bool = False,
    fold_batch_norm: bool = False,
    compile: bool = False,
    memory_budget_bytes: int | None = None,
    companions: Mapping[str, Companion] | None = None,
    boxes: Boxes | None = None,
    last_spatial: str | None = None,
) -> Model:
    """Make a model of a module of the caller's, which is neither changed nor copied in memory.

    Without a transform the module is taken to want RGB (or grey, if its first convolution has one channel) in 0..1 at
    `input_size` (H, W), 224x224 if not given. `device` is where the module is, if not given. `companions`, `boxes` and
    `last_spatial` are those of `ModelConfig`.

    Raises:
        InvalidInput: the module cannot be copied, does not run on such an input, its output is ambiguous, or the device
            is missing.
    """
    parameter = next(iter([*module.parameters(), *module.buffers()]), None)
    where = usable_device(device if device is not None else parameter.device if parameter is not None else "cpu")
    if transform is None:
        transform = Transform.plain(input_size or (224, 224), _first_channels(module))
    elif input_size is not None:
        transform = transform.resized(input_size)
    return _build(
        own_copy(module),
        name=name,
        source=f"module:{type(module).__name__}",
        transform=transform,
        labels=tuple(labels),
        device=where,
        input_size=input_size,
        output=output,
        latent=latent,
        precision=precision,
        channels_last=channels_last,
        fold=fold_batch_norm,
        compiled=compile,
        budget=memory_budget_bytes,
        companions=companions or {},
        boxes=boxes,
        last_spatial=last_spatial,
    )


def read_labels(path: Path) -> tuple[str, ...]:
    """Return labels from a file: a JSON list, or one a line.

    Raises:
        NotFound: there is no such file. InvalidInput: it is not text, or not a list of texts.
    """
    if not path.is_file():
        raise NotFound(f"there is no labels file {path}", reason="MODEL_NOT_FOUND", field="labels")
    try:
        text = path.read_text(encoding="utf-8")
        labels = json.loads(text) if path.suffix == ".json" else [line.strip() for line in text.splitlines()]
    except ValueError as error:
        raise InvalidInput(f"{path} is not a list of labels: {error}", field="labels") from error
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        raise InvalidInput(f"{path} is not a list of labels", field="labels")
    return tuple(labels)


def _open(config: ModelConfig, sources: Mapping[str, type[ModelSource]]) -> OpenedModel:
    scheme, _, name = config.source.partition(":")
    known: dict[str, type[ModelSource]] = {PythonSource.scheme: PythonSource, **sources}
    if scheme not in known:
        raise NotFound(
            f"no plugin offers models of the scheme {scheme!r}; there are {', '.join(sorted(known))}",
            reason="MODEL_NOT_FOUND",
            field="source",
        )
    with torch.random.fork_rng(devices=[]):
        return known[scheme]().open(name, pretrained=config.weights == "default")


def _fill(module: nn.Module, weights: str) -> None:
    if weights == "default":
        return
    kind, _, seed = weights.partition(":")
    if kind != "random":
        load_weights(module, Path(weights))
    elif seed.isdecimal():
        random_weights(module, int(seed))
    else:
        raise InvalidInput(f"weights {weights!r}: write random:SEED with a whole number", field="weights")


def _first_channels(module: nn.Module) -> int:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            return layer.in_channels
    return 3


def _build(
    module: nn.Module,
    *,
    name: str,
    source: str,
    transform: Transform,
    labels: tuple[str, ...],
    device: torch.device,
    input_size: tuple[int, int] | None,
    output: str | None,
    latent: str | None,
    precision: Precision,
    channels_last: Literal["auto"] | bool,
    fold: bool,
    compiled: bool,
    budget: int | None,
    companions: Mapping[str, Companion],
    boxes: Boxes | None,
    last_spatial: str | None,
) -> Model:
    digest = digest_of(module)
    parameter_count = sum(parameter.numel() for parameter in module.parameters())
    dtype = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    size = input_size or transform.size or (224, 224)
    module.to(device)
    example = example_inputs(1, transform.channels, size, dtype).to(device)
    beside = example_companions(companions, 1, dtype, device)

    def ask(asked: nn.Module, inputs: Tensor) -> Tensor:
        raw = asked(inputs, **beside)
        if output is None and is_listed(raw):
            return packed(raw, limit_of(asked), (inputs.shape[2], inputs.shape[3]))
        return select(raw, output)

    _first_answer(module, example, ask, name)
    if fold:
        fold_batch_norm(module, example, ask)
    turned = channels_last is not False and use_channels_last(module, example, ask)
    if channels_last is True and not turned:
        raise InvalidInput(f"model {name!r} does not answer the same in channels_last", field="channels_last")
    bare = own_copy(module) if compiled else None
    install_hooks(module)
    survey, counter, relu, attention = Survey(), CountCalls(), FindRelu(), FindAttention()
    with torch.no_grad(), watching(survey), counter, under(relu, ()), under(attention, ()):
        raw = module(example.to(memory_format=torch.channels_last) if turned else example, **beside)
    limit = limit_of(module) if output is None and is_listed(raw) else 0
    answer = packed(raw, limit, size) if limit else select(raw, output)
    functional = counter.count > survey.taken_over
    if not limit:
        _check_labels(labels, answer, name, 4 if boxes is not None else 0)
    findings = survey.findings(answer, example, texts=bool(companions))
    if last_spatial is not None or limit:  # the levels of a detector's pyramid run side by side: none is the last
        findings = replace(findings, last_spatial=_chosen_layer(last_spatial, findings.shapes, name))
    if precision != "float32":
        ends = [end for end, (layer, _) in enumerate(findings.sizes) if layer == findings.last_spatial]
        head = {layer for layer, _ in (findings.sizes[: ends[-1]] if ends else findings.sizes)}
        tail = {layer for layer, _ in (findings.sizes[ends[-1] :] if ends else ())}
        for part in (module, bare):
            if part is not None:
                narrow_weights(part, head - tail, DTYPES[precision])
    if device.type == "cpu":
        make_batch_invariant(module)
    model = Model(
        name=name,
        source=source,
        digest=digest,
        module=module,
        transform=transform,
        labels=labels,
        input_size=size,
        input_channels=transform.channels,
        output_shape=tuple(answer.shape[1:]),
        latent_shape=None if latent is None else tuple(select(raw, latent).shape[1:]),
        precision=precision,
        device=device,
        dtype=dtype,
        channels_last=turned,
        parameter_count=parameter_count,
        budget=budget or _default_budget(device),
        layers=_layers(module, findings.shapes),
        findings=findings,
        output_selector=output,
        latent_selector=latent,
        companions=dict(companions),
        boxes=boxes,
        detection_limit=limit,
        compiled_from=bare,
        functional=functional,
    )
    if attention.found:
        model.attention = find_attention(model, example)
    _examine(model, example, relu=relu.found)
    return model


def _first_answer(module: nn.Module, example: Tensor, ask: Any, name: str) -> None:
    """Make sure that the module runs on what its transform gives."""
    try:
        with torch.no_grad():
            ask(module, example)
    except InvalidInput:
        raise
    except Exception as error:
        raise InvalidInput(
            f"model {name!r} does not run on an input of shape {list(example.shape)}: {error}", field="input_size"
        ) from error


def _check_labels(labels: tuple[str, ...], answer: Tensor, name: str, corners: int) -> None:
    """Make sure that there is a label for each class of `[N, classes, ...]`, or each word of `[N, T, words]`."""
    if labels and answer.dim() > 1:
        count = answer.shape[2 if answer.dim() == 3 else 1] - corners
        if len(labels) != count:
            raise InvalidInput(f"model {name!r} has {count} classes but {len(labels)} labels", field="labels")


def _chosen_layer(chosen: str | None, shapes: Mapping[str, tuple[int, ...]], name: str) -> str | None:
    if chosen is not None and len(shapes.get(chosen, ())) != 3:
        raise InvalidInput(f"model {name!r} has no layer {chosen!r} that gives maps", field="last_spatial")
    return chosen


def _layers(module: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> tuple[LayerInfo, ...]:
    return tuple(
        LayerInfo(name, type(layer).__name__, shapes.get(name, ()), sum(p.numel() for p in layer.parameters()))
        for name, layer in module.named_modules()
        if name
    )


def _examine(model: Model, example: Tensor, *, relu: bool) -> None:
    """Find out what the model offers: gradients, maps, and whether its head has the closed form."""
    layer = model.last_spatial
    needs = set() if layer is None else {Need.SPATIAL_LAYER}
    if relu:
        needs.add(Need.RELU)
    with torch.enable_grad():
        # Another input than the one that was surveyed: what holds for both is no accident.
        inputs = example.flip(-1) if layer is not None else example.clone().requires_grad_(True)
        ran = model.run(inputs, example_companions(model.companions, 1, model.dtype, model.device), split=layer)
        if ran.output.requires_grad:
            needs.add(Need.GRADIENTS)
        if layer is not None and ran.leaf is not None and ran.output.requires_grad:
            linear = model.findings.last_linear
            module = model.module.get_submodule(linear) if linear else None
            model.head = find_gap_head(layer, module, ran.leaf, ran.output)
    if layer is None and Need.GRADIENTS in needs and not model.detection_limit:
        model.last_tokens = find_last_tokens(model, example)
    if model.last_tokens is not None:
        needs.add(Need.SPATIAL_LAYER)
    if model.attention is not None:
        needs.add(Need.ATTENTION)
    if model.head is not None:
        needs.add(Need.GAP_HEAD)
    if model.latent_shape is not None:
        needs.add(Need.LATENTS)
        if layer is not None and Need.GRADIENTS in needs:
            model.latent_head(layer, example)
    model.capabilities = frozenset(needs)


def _default_budget(device: torch.device) -> int:
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return int(free) // 2
    return CPU_BUDGET
