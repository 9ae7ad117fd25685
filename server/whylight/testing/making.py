"""Runs one synthesis or inspection, as the server would, for tests of the method; knows neither requests nor files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from whylight.data_set import NO_DATA_SETS, DataSets
from whylight.errors import MethodFailed, Unsupported
from whylight.method import (
    Inspected,
    Inspection,
    InspectionTask,
    Method,
    Pause,
    Progress,
    Synthesis,
    Synthesised,
    SynthesisTask,
)
from whylight.models import Model, wrap_module
from whylight.options import PlainOptions, parse_options
from whylight.subject import CancelToken
from whylight.target import as_target
from whylight.testing.running import AnyTarget


def run_synthesis(
    method: type[Synthesis] | Synthesis,
    module: nn.Module | Model,
    targets: Sequence[AnyTarget] = (None,),
    options: Mapping[str, Any] | PlainOptions | None = None,
    *,
    pictures: Tensor | None = None,
    seeds: Sequence[int] | None = None,
    size: tuple[int, int] | None = None,
    cancel: CancelToken | None = None,
    others: Sequence[Model] = (),
) -> tuple[list[Progress], Synthesised]:
    """Return every step's progress and what was made for each of `targets` (None: the caller named nothing).

    `pictures` are `[B, P, C, H, W]` of 0 (black) to 1 (white); `others` are the models served beside it. When not
    given, `size` (H, W) is the model's own and `seeds` are 0, 1, 2 …

    Raises:
        InvalidInput: an option is wrong.
        Unsupported: the model lacks what the method needs.
        MethodFailed: the method did not end with one picture for each target.
    """
    made_by, model, settings = _prepared(method, module, options)
    size = size or model.input_size
    if pictures is None:
        pictures = torch.empty(len(targets), 0, model.input_channels, *size, dtype=model.dtype, device=model.device)
    task = SynthesisTask(
        targets=tuple(None if target is None else as_target(target) for target in targets),
        pictures=pictures,
        seeds=tuple(range(len(targets)) if seeds is None else seeds),
        size=size,
        cancel=cancel or CancelToken(),
    )
    subject = model.subject(task.cancel, {other.name: other for other in (model, *others)})
    *progress, made = made_by.synthesise(subject, task, settings)
    steps = [step for step in progress if isinstance(step, Progress)]
    if not isinstance(made, Synthesised) or not all(isinstance(step, Progress | Pause) for step in progress):
        raise MethodFailed(f"{made_by.name} did not end with one Synthesised, and Progress before it")
    if made.images.dim() != 4 or len(made.images) != len(targets):
        raise MethodFailed(f"{made_by.name} made images of shape {list(made.images.shape)} for {len(targets)} targets")
    return steps, made


def run_inspection(
    method: type[Inspection] | Inspection,
    module: nn.Module | Model,
    options: Mapping[str, Any] | PlainOptions | None = None,
    *,
    inputs: Tensor | None = None,
    targets: Sequence[AnyTarget] = (),
    seed: int = 0,
    cancel: CancelToken | None = None,
    data_sets: DataSets = NO_DATA_SETS,
) -> tuple[list[Progress], Inspected]:
    """Return every progress and what was found; `inputs` are `[P, C, H, W]`, normalised already.

    Raises:
        InvalidInput: an option is wrong.
        Unsupported: the model lacks what the method needs.
        MethodFailed: the method did not end with what it found.
    """
    made_by, model, settings = _prepared(method, module, options)
    if inputs is None:
        inputs = torch.empty(0, model.input_channels, *model.input_size, dtype=model.dtype, device=model.device)
    task = InspectionTask(inputs, tuple(map(as_target, targets)), seed, cancel or CancelToken(), data_sets)
    *progress, found = made_by.inspect(model.subject(task.cancel), task, settings)
    steps = [step for step in progress if isinstance(step, Progress)]
    if not isinstance(found, Inspected) or not all(isinstance(step, Progress | Pause) for step in progress):
        raise MethodFailed(f"{made_by.name} did not end with one Inspected, and Progress before it")
    return steps, found


def _prepared(
    method: Any, module: nn.Module | Model, options: Mapping[str, Any] | PlainOptions | None
) -> tuple[Any, Model, PlainOptions]:
    made: Method = method() if isinstance(method, type) else method
    model = module if isinstance(module, Model) else wrap_module(module)
    missing = sorted(need.value for need in made.needs - model.capabilities)
    if missing:
        raise Unsupported(f"{made.name} needs {', '.join(missing)}, which {model.name} has not")
    return made, model, options if isinstance(options, PlainOptions) else parse_options(made.Options, options or {})
