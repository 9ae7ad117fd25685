"""Synthesis and inspection as messages ask for them; knows neither sockets nor when their steps are taken."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import numpy.typing as npt

from whylight.errors import InvalidInput
from whylight.explainer import DecodedInput, Explainer
from whylight.explainer.inspecting import Viewing, inspect
from whylight.explainer.long_inputs import check_aims, decode_inputs, decode_pictures
from whylight.explainer.long_plan import LongPlan, Wanted, plan_inspection, plan_synthesis
from whylight.explainer.slices import Slices
from whylight.explainer.step_watcher import Shown, StepWatcher
from whylight.explainer.synthesising import Order, synthesise
from whylight.method import Synthesis
from whylight.subject import CancelToken
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import (
    input_from_proto,
    min_interval_from_proto,
    outputs_from_proto,
    picture_to_proto,
    struct_to_dict,
    targets_from_proto,
)
from whylight.worker.outbox import Preview
from whylight.worker.v1 import worker_pb2

if TYPE_CHECKING:
    from whylight.models import Model

News: TypeAlias = worker_pb2.ItemProgress | Preview


@dataclass(frozen=True)
class DecodedLong:
    """An item of long work, ready for the device: an order or inputs to look at, which nobody watches yet."""

    item: worker_pb2.Item
    order: Order | None = None
    viewing: Viewing | None = None


def long_plan(explainer: Explainer, spec: worker_pb2.PlanSpec, models: Mapping[str, Model]) -> LongPlan:
    """Return the plan of a synthesis or an inspection, with `models` for those that are served.

    Raises:
        WhylightError: as `plan_synthesis` and `plan_inspection`, with field paths of their requests.
    """
    if len(spec.methods) != 1:
        raise InvalidInput(f"{len(spec.methods)} methods in one call; there is one", field="method")
    (method,) = spec.methods
    options = struct_to_dict(method.options, "method.options")
    known = models, explainer.methods, spec.model, method.name, options
    if spec.kind == catalog_pb2.METHOD_KIND_INSPECTION:
        return plan_inspection(*known, explainer.data_sets)
    wanted = Wanted(
        outputs=outputs_from_proto(spec.outputs),
        size=(spec.size.height, spec.size.width) if spec.HasField("size") else None,
        pictures=spec.picture_count,
        targeted=spec.targeted,
        top_predictions=spec.top_predictions,
    )
    return plan_synthesis(*known, wanted, explainer.limits)


@dataclass(frozen=True)
class DecodedPictures:
    """The pictures of a call, which all its items share: those of a synthesis as one array, or inputs to look at."""

    array: npt.NDArray[np.float32] | None = None
    seconds: float = 0.0
    inputs: tuple[DecodedInput, ...] = ()


def decode_call(
    explainer: Explainer, plan: LongPlan, pictures: Sequence[v1.Input], check: Callable[[], None]
) -> DecodedPictures:
    """Read the pictures of a call; `check` is called before each, and what it raises is raised.

    Raises:
        WhylightError: with field paths that begin with ``inputs``.
    """
    limits = explainer.limits
    data = [
        input_from_proto(one, f"inputs[{index}]", max_elements=limits.tensor_elements)
        for index, one in enumerate(pictures)
    ]
    if isinstance(plan.method, Synthesis):
        return DecodedPictures(*decode_pictures(plan, data, limits, check))
    return DecodedPictures(inputs=decode_inputs(plan, data, limits, check))


def decode_long(explainer: Explainer, plan: LongPlan, item: worker_pb2.Item, pictures: DecodedPictures) -> DecodedLong:
    """Read an item's targets, for work on pictures that are decoded.

    Raises:
        WhylightError: with field paths that begin with ``input.targets``.
    """
    targets = targets_from_proto(item.input.targets, "input.targets")
    check_aims(plan, targets, explainer.limits)
    seed = item.seeds[0] if item.seeds else 0
    if pictures.array is None:
        return DecodedLong(item, viewing=Viewing(pictures.inputs, targets, seed, CancelToken()))
    target = targets[0] if targets else None
    return DecodedLong(item, order=Order(target, pictures.array, seed, CancelToken(), decode_time=pictures.seconds))


def begin_long(
    plan: LongPlan, items: Sequence[DecodedLong], cancels: Sequence[CancelToken], tell: Callable[[News], None]
) -> Slices:
    """Return the work on items of one plan; nothing of it is done before it is asked for its first step."""
    orders, viewings = [], []
    for item, cancel in zip(items, cancels, strict=True):
        watcher = _watcher(item.item, tell)
        if item.order is not None:
            orders.append(replace(item.order, cancel=cancel, watcher=watcher))
        elif item.viewing is not None:
            viewings.append(replace(item.viewing, cancel=cancel, watcher=watcher))
    return synthesise(plan, orders) if isinstance(plan.method, Synthesis) else _one_by_one(plan, viewings)


def _one_by_one(plan: LongPlan, viewings: Sequence[Viewing]) -> Slices:
    for place, viewing in enumerate(viewings):
        for ended in inspect(plan, viewing):
            yield [(place, outcome) for _, outcome in ended]


def _watcher(item: worker_pb2.Item, tell: Callable[[News], None]) -> StepWatcher | None:
    if not item.HasField("progress"):
        return None

    def step(step: int, total: int, losses: Mapping[str, float]) -> None:
        tell(worker_pb2.ItemProgress(item_id=item.item_id, done=step, total=total, losses=losses))

    def show(step: int, shown: Shown) -> None:
        def encode() -> worker_pb2.ItemPreview:
            return worker_pb2.ItemPreview(item_id=item.item_id, step=step, picture=picture_to_proto(shown.picture()))

        tell(Preview(item.item_id, shown.pixels.nbytes, encode))

    return StepWatcher(
        step, show, min_interval=min_interval_from_proto(item.progress), preview_interval=item.preview_interval
    )
