"""Runs one method on one module, as the server would, for tests of the method; knows neither requests nor pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, nn

from whylight.errors import MethodFailed, Unsupported
from whylight.method import Attribution, Batch, Maps
from whylight.models import Model, wrap_module
from whylight.options import Options, parse_options
from whylight.subject import CancelToken
from whylight.target import Target, as_target

AnyTarget: TypeAlias = Target | int | str | None
Targets: TypeAlias = Sequence[AnyTarget | Sequence[AnyTarget]]


def run_method(
    method: type[Attribution] | Attribution,
    module: nn.Module | Model,
    inputs: Tensor,
    targets: Targets | None = None,
    options: Mapping[str, Any] | Options | None = None,
    *,
    seeds: Sequence[int] | None = None,
    cancel: CancelToken | None = None,
) -> Maps:
    """Return the raw maps of `inputs` `[N, C, H, W]`, which are normalised already, on the device that they are on.

    `targets` has one item for each input: a target, an index, a label, None for the top prediction, or a list of these;
    without it every input's top prediction is explained. `seeds` are 0, 1, 2 … when not given.

    Raises:
        InvalidInput: an option is wrong.
        Unsupported: the model lacks what the method needs.
        MethodFailed: the method gave something else than one map for each target.
    """
    method = method() if isinstance(method, type) else method
    model = module if isinstance(module, Model) else wrap_module(module, device=inputs.device)
    missing = sorted(need.value for need in method.needs - model.capabilities)
    if missing:
        raise Unsupported(f"{method.name} needs {', '.join(missing)}, which {model.name} has not")
    settings = options if isinstance(options, Options) else parse_options(method.Options, options or {})
    batch = batch_of(inputs, targets, seeds=seeds, cancel=cancel)
    given: Any = method.attribute(model.subject(), batch, settings)
    maps = given if isinstance(given, Maps) else Maps(given)
    _check(method, maps, len(batch.targets))
    return maps


def batch_of(
    inputs: Tensor,
    targets: Targets | None = None,
    *,
    seeds: Sequence[int] | None = None,
    cancel: CancelToken | None = None,
) -> Batch:
    """Return the batch that a method is given for `inputs` and `targets`, written as `run_method` takes them."""
    given = [None] * len(inputs) if targets is None else list(targets)
    if len(given) != len(inputs):
        raise ValueError(f"{len(given)} targets for {len(inputs)} inputs")
    flat: list[Target] = []
    rows: list[int] = []
    for row, item in enumerate(given):
        several = item if isinstance(item, Sequence) and not isinstance(item, str) else [item]
        flat += [as_target(target) for target in several]
        rows += [row] * len(several)
    return Batch(
        inputs=inputs,
        targets=tuple(flat),
        rows=tuple(rows),
        cancel=cancel or CancelToken(),
        seeds=tuple(range(len(inputs)) if seeds is None else seeds),
    )


def _check(method: Attribution, maps: Maps, count: int) -> None:
    if not isinstance(maps.maps, Tensor):
        raise MethodFailed(f"{method.name} gave {type(maps.maps).__name__}, not a tensor of maps")
    if maps.maps.dim() != 3 or len(maps.maps) != count:
        raise MethodFailed(f"{method.name} gave maps of shape {list(maps.maps.shape)}, not [{count}, h, w]")
    for name, check in maps.checks.items():
        if check.shape != (count,):
            raise MethodFailed(f"{method.name} gave the check {name!r} of shape {list(check.shape)}, not [{count}]")
