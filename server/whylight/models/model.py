"""A model that is served: what is known of it, and one pass through it; knows no method, no request and no source.

A model never changes once it is made, so any number of threads may run it at once, each with a `Subject` of its own.
"""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from whylight.errors import NotFound, Unsupported
from whylight.method import Need
from whylight.models.companion import ANY_LENGTH, Companion
from whylight.models.config import Precision
from whylight.models.detections import Boxes, Detections, in_fractions, packed
from whylight.models.ownership import own_copy
from whylight.models.selector import select
from whylight.models.survey import Findings
from whylight.models.transform import Transform
from whylight.options import LAST_SPATIAL
from whylight.subject.aim import LATENT, OUTPUT, aim_at
from whylight.subject.altered import reaches
from whylight.subject.attention import AttentionForm
from whylight.subject.backward_rule import BackwardRule, under
from whylight.subject.cancel import CancelToken
from whylight.subject.gap_head import GapHead
from whylight.subject.invariance import batch_invariant
from whylight.subject.latent_head import LatentHead, find_latent_head
from whylight.subject.layout import Layout
from whylight.subject.run import BrokenOff, Run, install_hooks, watching
from whylight.subject.subject import Subject
from whylight.target import Target

COMPILED_SETS = 16
"""For how many sets of captured layers a model is compiled."""

LATENT_HEADS = 4
"""For how many layers and sizes of inputs a model keeps the closed form of its latents."""

RANDOMISED = 4
"""How many randomised copies a model keeps."""

DTYPES: dict[Precision, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


@dataclass(frozen=True)
class LayerInfo:
    """A layer: its name, the class of its module, its output's shape for one input, its parameters and those below.

    The shape is empty if the layer does not run, or gives no single tensor.
    """

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameter_count: int


@dataclass(frozen=True)
class Ran:
    """What one pass gave: the selected output, the latents if asked for, the leaf of a split, outputs of layers."""

    output: Tensor
    latents: Tensor | None
    leaf: Tensor | None
    watched: dict[str, Tensor]

    def sources(self) -> dict[str, Tensor]:
        """Return everything that a target can point into, by source."""
        latents = {} if self.latents is None else {LATENT: self.latents}
        return {**self.watched, **latents, OUTPUT: self.output}


@dataclass(eq=False)
class Model:
    """A loaded model. Made by `open_model` and `wrap_module`.

    `module` is the server's own copy: frozen, in eval mode, nothing in place, with inert hooks. `output_shape` and
    `latent_shape` are without the batch dimension. `class_count` is 0 when the output is not a vector of scores.
    `budget` is how many bytes a chunk may take; `functional` says that convolutions or linear layers are called as
    functions, not as layers. `companions` are what it takes besides the picture. `detections` says that the output is
    those of a detector, `[K, 6]` listed or `[K, 4 + classes]` dense, with corners in fractions of the input.
    """

    name: str
    source: str
    digest: str
    module: nn.Module
    transform: Transform
    labels: tuple[str, ...]
    input_size: tuple[int, int]
    input_channels: int
    output_shape: tuple[int, ...]
    latent_shape: tuple[int, ...] | None
    precision: Precision
    device: torch.device
    dtype: torch.dtype
    channels_last: bool
    parameter_count: int
    budget: int
    layers: tuple[LayerInfo, ...]
    findings: Findings
    output_selector: str | None = None
    latent_selector: str | None = None
    companions: Mapping[str, Companion] = field(default_factory=dict)
    boxes: Boxes | None = None
    detection_limit: int = 0
    compiled_from: nn.Module | None = None
    functional: bool = False
    head: GapHead | None = None
    last_tokens: str | None = None
    attention: AttentionForm | None = None
    capabilities: frozenset[Need] = frozenset()
    _by_name: dict[str, LayerInfo] = field(init=False, repr=False)
    _compiled: dict[frozenset[str], Callable[..., Any]] = field(init=False, repr=False, default_factory=dict)
    _reached: set[tuple[str, str]] = field(init=False, repr=False, default_factory=set)
    _latent_heads: dict[tuple[str, torch.Size], LatentHead | None] = field(init=False, repr=False, default_factory=dict)
    _randomised: dict[tuple[int, int], Model] = field(init=False, repr=False, default_factory=dict)
    _lock: threading.Lock = field(init=False, repr=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._by_name = {layer.name: layer for layer in self.layers}

    @property
    def class_count(self) -> int:
        """How many classes the output scores, 0 when it is not a vector of scores."""
        return self.output_shape[0] if len(self.output_shape) == 1 else 0

    @property
    def output_varies(self) -> bool:
        """Whether the shape of the output may depend on companions: a text of any length gives an output as long."""
        return any(ANY_LENGTH in companion.shape for companion in self.companions.values())

    @property
    def detections(self) -> Detections | None:
        """In which form the output is detections, None if it is something else."""
        return "listed" if self.detection_limit else "dense" if self.boxes is not None else None

    @property
    def last_spatial(self) -> str | None:
        """The layer that "last-spatial" stands for; see `whylight.models.survey` for the rule.

        Where there are no maps behind the tokens of a transformer, it is the last layer of tokens that lie on the
        picture and matter to the output (`whylight.models.tokens`).
        """
        return self.findings.last_spatial or self.last_tokens

    @cached_property
    def batch_invariant(self) -> bool:
        """Whether an input gets the same bits alone and in batches of 2, 3 and 8, as measured when first asked for.

        Measured are the output, gradients at the input and, where there is a last spatial layer, activations and
        gradients there.
        """
        from whylight.models.probe import is_batch_invariant

        return is_batch_invariant(self)

    def subject(self, cancel: CancelToken | None = None, others: Mapping[str, Model] | None = None) -> Subject:
        """Return the model as methods see it, for one batch; `others` are those served beside it, by name."""
        return Subject(self, cancel, others)

    def randomised(self, seed: int, layers: int = 1) -> Model:
        """Return a copy whose last `layers` layers with weights have random ones; see `whylight.models.randomised`.

        Made once; the last few are kept. This model stays as it is, and the weights of all other layers are shared.
        """
        from whylight.models.randomised import randomised

        key = (layers, seed)
        with self._lock:
            made = self._randomised.pop(key, None) or randomised(self, layers, seed)
            self._randomised[key] = made
            while len(self._randomised) > RANDOMISED:
                del self._randomised[next(iter(self._randomised))]
        return made

    def max_rows(self, gradients_at: str | None = None) -> int:
        """Return how many inputs may run at once under the memory budget, at least one.

        `gradients_at` names the layer at which gradients are taken, "" for the input, None for no gradients.
        """
        return max(1, self.budget // self.findings.bytes_per_row(gradients_at))

    def label(self, index: int) -> str:
        """Return the label of a class, empty if it has none."""
        return self.labels[index] if 0 <= index < len(self.labels) else ""

    def layer(self, name: str, *, field: str = "options.layer") -> LayerInfo:
        """Return the layer called `name`, or "last-spatial".

        Raises:
            NotFound: there is none (reason LAYER_NOT_FOUND, at `field`); the message has close matches.
            Unsupported: "last-spatial", of a model that has none.
        """
        if name == LAST_SPATIAL:
            if self.last_spatial is None:
                raise Unsupported(
                    f"model {self.name!r} has no last layer with maps, nor with tokens that lie on the picture; "
                    "name a layer",
                    field=field,
                )
            name = self.last_spatial
        if name in self._by_name:
            return self._by_name[name]
        close = difflib.get_close_matches(name, self._by_name, 3)
        hint = f"; close ones are {', '.join(map(repr, close))}" if close else ""
        raise NotFound(f"model {self.name!r} has no layer {name!r}{hint}", reason="LAYER_NOT_FOUND", field=field)

    def layout(self, layer: str) -> Layout | None:
        """Return how the output of a layer, by its own name, lies on the picture; None if it does not."""
        return self.findings.layouts.get(layer)

    def parameters_of(self, layer: str) -> dict[str, Tensor]:
        """Return copies of a layer's own parameters by name, such as "weight"; empty where it has none."""
        module = self.module.get_submodule(layer)
        return {name: value.detach().clone() for name, value in module.named_parameters(recurse=False)}

    def same_output(self, one: str, other: str) -> bool:
        """Whether two layers give the very same tensor, as `layer4` and `layer4.2` of a ResNet."""
        return self.findings.same_output(one, other)

    def reaches(self, layer: str, source: str, input: Tensor, companions: Mapping[str, Tensor] | None = None) -> bool:
        """Whether a source of targets depends on a layer's output; see `whylight.subject.altered.reaches`.

        That it does is remembered; that it does not, may be so for this input only.
        """
        if (layer, source) not in self._reached:
            if not reaches(self, layer, source, input, companions):
                return False
            self._reached.add((layer, source))
        return True

    def latent_head(self, layer: str, input: Tensor) -> LatentHead | None:
        """Return what makes the latents of a layer's output, if it seems to be an affine function for every input.

        Found out with `input` `[1, C, H, W]` and kept for inputs of its size, the last few; None where it is not. Ask
        the head whether it holds for an input.
        """
        key = (layer, input.shape[1:])
        if key not in self._latent_heads:
            found = find_latent_head(self, layer, input)
            with self._lock:
                self._latent_heads[key] = found
                while len(self._latent_heads) > LATENT_HEADS:
                    del self._latent_heads[next(iter(self._latent_heads))]
            return found
        return self._latent_heads.get(key)

    def has_latent_head(self, layer: str) -> bool:
        """Whether it is known, without running, that the latents are an affine function of a layer's output.

        Of the last spatial layer that is found out when the model is loaded, of others when it is first needed.
        """
        return any(name == layer and head is not None for (name, _), head in [*self._latent_heads.items()])

    def check_target(self, target: Target) -> None:
        """Find out, without running, whether the model can answer for a target.

        Raises:
            InvalidInput, NotFound, Unsupported: it cannot; see `whylight.subject.aim.aim_at`.
        """
        aim_at(self, target)

    def run(
        self,
        inputs: Tensor,
        companions: Mapping[str, Tensor] | None = None,
        *,
        split: str | None = None,
        watch: Iterable[str] = (),
        latents: bool = False,
        swap: tuple[str, Callable[[Tensor], Tensor]] | None = None,
        rule: BackwardRule | None = None,
        plain: bool = False,
    ) -> Ran:
        """Make one pass with `inputs` `[R, C, H, W]`, in one piece; with a graph where autograd is on and needs one.

        `companions` `[R, ...]` are given to the module by their names.

        With `swap`, a layer and a function, what runs behind the layer gets what the function makes of its output.
        With `rule`, the backward pass follows it. With `plain`, what torch.compile made is not used.

        Raises:
            Unsupported: a layer that was asked for does not run, or gives no single tensor.
        """
        narrow = self.precision != "float32"
        run = Run(
            self.findings.passes,
            split=split,
            watch=watch,
            narrow_until=self.findings.last_spatial if narrow else None,
            widens=narrow,
            swap=swap,
            tracked=rule is not None,
        )
        raw = self._pass(run, inputs, companions, rule, plain=plain or swap is not None or rule is not None)
        run.finish()
        if swap is None:
            _check_rows(run, len(inputs))
        output = self.selected(raw, inputs)
        hidden = select(raw, self.latent_selector) if latents and self.latent_selector is not None else None
        return Ran(
            output.float() if narrow else output,
            hidden.float() if narrow and hidden is not None else hidden,
            run.leaf,
            run.watched,
        )

    def capture(self, inputs: Tensor, layers: Iterable[str]) -> dict[str, Tensor]:
        """Make a pass no further than to the last of `layers`, and return their outputs, with a graph as `run` does.

        Raises:
            Unsupported: a layer does not run, or gives no single tensor.
        """
        narrow = self.precision != "float32"
        run = Run(
            self.findings.passes,
            watch=layers,
            narrow_until=self.findings.last_spatial if narrow else None,
            widens=narrow,
            breaks_off=True,
        )
        with contextlib.suppress(BrokenOff):
            self._pass(run, inputs, None, None, plain=True)
        run.finish()
        _check_rows(run, len(inputs))
        return run.watched

    def selected(self, raw: Any, inputs: Tensor) -> Tensor:
        """Return what of the module's answer to `inputs` is explained."""
        size = (inputs.shape[2], inputs.shape[3])
        if self.detection_limit:
            return packed(raw, self.detection_limit, size)
        output = select(raw, self.output_selector)
        return in_fractions(output, size) if self.boxes == "pixels" else output

    def _pass(
        self,
        run: Run,
        inputs: Tensor,
        companions: Mapping[str, Tensor] | None,
        rule: BackwardRule | None,
        *,
        plain: bool,
    ) -> Any:
        """Call the module, with everything in place that this model and this run need; `plain`: not compiled."""
        if self.companions and not companions:
            raise Unsupported(f"model {self.name!r} takes {', '.join(self.companions)} besides the picture")
        plain = plain or self.compiled_from is None
        inputs = inputs.to(memory_format=torch.channels_last) if self.channels_last else inputs
        with contextlib.ExitStack() as stack:
            if self.functional and self.device.type == "cpu" and plain:
                stack.enter_context(batch_invariant())
            if self.precision != "float32":
                stack.enter_context(torch.autocast(self.device.type, DTYPES[self.precision]))
            stack.enter_context(watching(run))
            if rule is not None and run.running is not None:
                stack.enter_context(under(rule, run.running))
            return (self.module if plain else self._runner(run.wanted or frozenset()))(inputs, **(companions or {}))

    def _runner(self, layers: frozenset[str]) -> Callable[..., Any]:
        """Return what runs the module. Compiled modules have hooks on the captured layers only, one for each set.

        Callers choose the layers, so the number of compiled modules is bounded; further sets run uncompiled.
        """
        if self.compiled_from is None:
            return self.module
        with self._lock:
            if layers not in self._compiled:
                if len(self._compiled) == COMPILED_SETS:
                    return self.module
                copied = own_copy(self.compiled_from)
                install_hooks(copied, layers, traceable=False)
                self._compiled[layers] = torch.compile(copied)
            return self._compiled[layers]


def _check_rows(run: Run, rows: int) -> None:
    """Refuse layers that have no row for each input, such as those that see one box or one window at a time."""
    captured = [*run.watched.items(), *([] if run.leaf is None else [(run.split, run.leaf)])]
    for name, tensor in captured:
        if tensor.dim() == 0 or len(tensor) != rows:
            raise Unsupported(
                f"layer {name!r} gives {list(tensor.shape)} for {rows} inputs, not one row for each",
                field="options.layer",
            )
