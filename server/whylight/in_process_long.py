"""Synthesises and inspects without a server, on any module, model or model name; knows no request, no network."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias, overload

import numpy as np
import torch
from torch import Tensor, nn

from whylight import in_process
from whylight.data_set import DataSets
from whylight.errors import InvalidInput, Violation, WhylightError
from whylight.explainer.inspecting import Viewing
from whylight.explainer.inspecting import inspect as look
from whylight.explainer.long_inputs import check_aims, decode_inputs, decode_pictures
from whylight.explainer.long_plan import Wanted, plan_inspection, plan_synthesis
from whylight.explainer.slices import Outcome, Slices
from whylight.explainer.step_watcher import Shown, StepWatcher
from whylight.explainer.synthesising import Order
from whylight.explainer.synthesising import synthesise as make
from whylight.explanation import Explained, Explanation
from whylight.made import InspectionProgress, SynthesisPreview, SynthesisProgress, SynthesisResult
from whylight.method import Inspection, Method, Synthesis
from whylight.models import Model
from whylight.options import PlainOptions
from whylight.outputs import Output
from whylight.plugins import OfferedMethod
from whylight.subject import CancelToken
from whylight.target import Target

OneTarget: TypeAlias = Target | int | str | None
Others: TypeAlias = Mapping[str, nn.Module | Model | str]


@overload
def synthesise(
    model: nn.Module | Model | str,
    method: in_process.MethodLike,
    target: OneTarget = ...,
    *,
    pictures: in_process.ImageLike | Sequence[in_process.ImageLike] = ...,
    options: Mapping[str, Any] | PlainOptions | None = ...,
    seed: int | None = ...,
    size: tuple[int, int] | None = ...,
    outputs: Sequence[Output] | None = ...,
    top_predictions: int = ...,
    device: str | torch.device | None = ...,
    on_progress: Callable[[SynthesisProgress], None] | None = ...,
    on_preview: Callable[[SynthesisPreview], None] | None = ...,
    preview_interval: int = ...,
    others: Others | None = ...,
) -> SynthesisResult: ...


@overload
def synthesise(
    model: nn.Module | Model | str,
    method: in_process.MethodLike,
    target: list[Any] | tuple[Any, ...] | range,
    *,
    pictures: in_process.ImageLike | Sequence[in_process.ImageLike] = ...,
    options: Mapping[str, Any] | PlainOptions | None = ...,
    seed: int | None = ...,
    size: tuple[int, int] | None = ...,
    outputs: Sequence[Output] | None = ...,
    top_predictions: int = ...,
    device: str | torch.device | None = ...,
    on_progress: Callable[[SynthesisProgress], None] | None = ...,
    on_preview: Callable[[SynthesisPreview], None] | None = ...,
    preview_interval: int = ...,
    others: Others | None = ...,
) -> list[SynthesisResult]: ...


def synthesise(
    model: nn.Module | Model | str,
    method: in_process.MethodLike,
    target: Any = None,
    *,
    pictures: in_process.ImageLike | Sequence[in_process.ImageLike] = (),
    options: Mapping[str, Any] | PlainOptions | None = None,
    seed: int | None = None,
    size: tuple[int, int] | None = None,
    outputs: Sequence[Output] | None = None,
    top_predictions: int = 5,
    device: str | torch.device | None = None,
    on_progress: Callable[[SynthesisProgress], None] | None = None,
    on_preview: Callable[[SynthesisPreview], None] | None = None,
    preview_interval: int = 0,
    others: Others | None = None,
) -> SynthesisResult | list[SynthesisResult]:
    """Make a picture of what `model` has learned, without a server; for a list of targets, one for each, as one batch.

    `model` and `method` are as in `whylight.explain`. `target` is what a picture is to show: an index, a label, a
    `Target`, or None where the method wants none. `pictures` are those that the method starts from or works towards, in
    its order, or the only one. `size` is (height, width), that of the model's input unless given; `outputs` are a PNG.
    Without a `seed`, one is drawn for the call; every target gets the same. `on_progress` is called with the first and
    the last step and now and then between them, `on_preview` at every `preview_interval`-th step, for each target.
    `others` are the second models that methods ask for in their options, by the names that these say: a generator, an
    expert, a network that judges.

    Raises:
        WhylightError: the first thing that went wrong; `violations` name the argument. See `whylight.errors`.
        TypeError: an argument is of no type that is named above.
    """
    wanted, many = _targets(target)
    given = _listed(pictures)
    opened = in_process._opened(model, device, given)
    offered = _offered(method, Synthesis)
    asked = Wanted(
        outputs=() if outputs is None else in_process._outputs(outputs),
        size=size,
        pictures=len(given),
        targeted=_all_targeted(wanted),
        top_predictions=top_predictions,
    )
    models = _models(opened, others)
    known = models, {offered.method.name: offered}, opened.name, offered.method.name, _options(options)
    try:
        plan = plan_synthesis(*known, asked, in_process._LIMITS)
        aims = [one for one in wanted if one is not None]
        check_aims(plan, aims, in_process._LIMITS)
        decoded, seconds = decode_pictures(plan, _loaded(given), in_process._LIMITS)
    except WhylightError as error:
        raise _named(error, 0, many) from None
    drawn = secrets.randbits(63) if seed is None else in_process._seed(seed)

    def watcher(place: int) -> StepWatcher:
        def tell(step: int, total: int, losses: Mapping[str, float]) -> None:
            if on_progress is not None:
                on_progress(SynthesisProgress(place, step, total, losses))

        def show(step: int, shown: Shown) -> None:
            if on_preview is not None:
                on_preview(SynthesisPreview(place, step, shown.picture()))

        return StepWatcher(tell, show, preview_interval=preview_interval if on_preview is not None else 0)

    orders = [Order(one, decoded, drawn, CancelToken(), watcher(place), seconds) for place, one in enumerate(wanted)]
    results = []
    for place, explained in enumerate(_all(make(plan, orders), len(orders), many)):
        results.append(SynthesisResult(place, explained.predictions, explained.explanation))
    return results if many else results[0]


def inspect(
    model: nn.Module | Model | str,
    method: in_process.MethodLike,
    pictures: in_process.ImageLike | Sequence[in_process.ImageLike] = (),
    target: Any = None,
    *,
    options: Mapping[str, Any] | PlainOptions | None = None,
    seed: int | None = None,
    device: str | torch.device | None = None,
    on_progress: Callable[[InspectionProgress], None] | None = None,
    others: Others | None = None,
    data_sets: Mapping[str, str | Path] | DataSets | None = None,
) -> Explanation:
    """Show what `model` sees inside, without a server; the artifacts are under the names that the method gives them.

    `model` and `method` are as in `whylight.explain`. `pictures` are the inputs to look at, or the only one; `target`
    is what to look at, or a list, where the method wants to know. Without a `seed`, one is drawn. `others` are as in
    `whylight.synthesise`. `data_sets` are the folders and zip archives of pictures that the method may look at, by the
    names that its options say; as a `whylight.DataSets` they may have a folder in which methods keep what they found.

    Raises:
        WhylightError: the first thing that went wrong; `violations` name the argument. See `whylight.errors`.
        TypeError: an argument is of no type that is named above.
    """
    wanted, many = _targets(target)
    given = _listed(pictures)
    opened = in_process._opened(model, device, given)
    offered = _offered(method, Inspection)
    try:
        known = {offered.method.name: offered}, opened.name, offered.method.name, _options(options)
        plan = plan_inspection(_models(opened, others), *known, _data_sets(data_sets))
        aims = tuple(one for one in wanted if one is not None)
        check_aims(plan, aims, in_process._LIMITS)
        inputs = decode_inputs(plan, _loaded(given), in_process._LIMITS)
    except WhylightError as error:
        raise _named(error, 0, many) from None
    drawn = secrets.randbits(63) if seed is None else in_process._seed(seed)

    def tell(step: int, total: int, losses: Mapping[str, float]) -> None:
        if on_progress is not None:
            on_progress(InspectionProgress(step, total))

    viewing = Viewing(inputs, aims, drawn, CancelToken(), StepWatcher(tell))
    (found,) = _all(look(plan, viewing), 1, many)
    return found.explanation


def _models(opened: Model, others: Others | None) -> dict[str, Model]:
    """Return the model and those beside it, by the names under which methods ask for them.

    Raises:
        InvalidInput: one of the others has the model's own name, or is on another device.
    """
    models = {opened.name: opened}
    for name, other in (others or {}).items():
        if name in models:
            raise InvalidInput(f"{name!r} is the model itself", field=f"others[{name!r}]")
        try:
            models[name] = in_process._opened(other, opened.device)
        except WhylightError as error:
            error.violations = (Violation(f"others[{name!r}]", error.message),)
            raise
    return models


def _data_sets(given: Mapping[str, str | Path] | DataSets | None) -> DataSets:
    return given if isinstance(given, DataSets) else DataSets(dict(given or {}))


def _offered(method: Any, kind: type[Method]) -> OfferedMethod:
    """Return a method by its name, or one of the caller's own."""
    if isinstance(method, str):
        methods = in_process._plugins().methods
        if method in methods:
            return methods[method]
        from whylight.explainer.plan import not_found

        raise not_found("method", method, methods, "method")
    made = method() if isinstance(method, type) and issubclass(method, kind) else method
    if not isinstance(made, kind):
        raise TypeError(f"method is a name or a whylight.{kind.__name__}, not {method!r}")
    if not isinstance(getattr(made, "name", None), str):
        raise TypeError(f"{type(made).__qualname__} has no name; set the class variable 'name'")
    return OfferedMethod(made, plugin="", distribution="")


def _options(options: Mapping[str, Any] | PlainOptions | None) -> dict[str, Any]:
    return options.model_dump(exclude_unset=True) if isinstance(options, PlainOptions) else dict(options or {})


def _targets(target: Any) -> tuple[list[Target | None], bool]:
    """Return the targets, and whether the caller gave a list of them."""
    if isinstance(target, np.ndarray | Tensor):
        target = target.tolist()
    many = isinstance(target, list | tuple | range)
    listed = list(target) if many else [target]
    if not listed:
        raise InvalidInput("there are no targets; leave them out, or name at least one", field="target")
    return [None if one is None else in_process._target(one) for one in listed], many


def _all_targeted(wanted: Sequence[Target | None]) -> bool:
    """Return whether there are targets.

    Raises:
        InvalidInput: some are there, and some are None.
    """
    missing = [place for place, one in enumerate(wanted) if one is None]
    if 0 < len(missing) < len(wanted):
        raise InvalidInput("name a target in each place, or none at all", field=f"target[{missing[0]}]")
    return not missing


def _listed(pictures: Any) -> Sequence[Any]:
    return in_process._listed(pictures)[0]


def _loaded(pictures: Sequence[Any]) -> list[Any]:
    loaded = []
    for place, picture in enumerate(pictures):
        try:
            loaded.append(in_process._loaded(picture))
        except WhylightError as error:
            raise error.within(f"inputs[{place}]") from None
    return loaded


def _all(slices: Slices, count: int, many: bool) -> list[Explained]:
    """Do the work and return what came of each, or raise the first error."""
    outcomes: dict[int, Outcome] = {}
    try:
        while len(outcomes) < count:
            outcomes.update(next(slices))
    finally:
        slices.close()
    found = []
    for place in range(count):
        outcome = outcomes[place]
        if isinstance(outcome, WhylightError):
            raise _named(outcome, place, many)
        found.append(outcome)
    return found


def _named(error: WhylightError, place: int, many: bool) -> WhylightError:
    """Say what an error is about in the words of the arguments; `place` is that of the target."""
    own = f"target[{place}]" if many else "target"
    return error.locate({"inputs": "pictures", "input.targets[0]": own, "input.targets": "target", "targets": "target"})
