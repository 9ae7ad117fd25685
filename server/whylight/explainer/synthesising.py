"""Makes pictures, those of many callers as one batch, step by step; knows neither requests nor processes."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from whylight.artifact import Artifact, Map
from whylight.errors import InvalidInput, WhylightError
from whylight.explainer.attribution import predict
from whylight.explainer.long_plan import LongPlan
from whylight.explainer.plan import method_failed
from whylight.explainer.slices import Ended, Slices, advanced, failure_of, in_parts
from whylight.explainer.step_watcher import Shown, StepWatcher
from whylight.explanation import Execution, Explained, Explanation
from whylight.method import Batch, Progress, Synthesis, Synthesised, SynthesisTask
from whylight.outputs import MapOutput, Output, PictureOutput
from whylight.render import encoded
from whylight.subject import CancelToken, Subject
from whylight.target import Target

PIXELS_TOGETHER = 4 * 2**20
"""Pixels of the pictures that are made as one batch at most, or one picture: other work waits for a step of it."""


@dataclass(frozen=True)
class Order:
    """A picture that somebody wants: `pictures` are float32 `[P, C, H, W]`, 0 black and 1 white; `seed` is its own."""

    target: Target | None
    pictures: npt.NDArray[np.float32]
    seed: int
    cancel: CancelToken
    watcher: StepWatcher | None = None
    decode_time: float = 0.0


def synthesise(plan: LongPlan, orders: Sequence[Order]) -> Slices:
    """Make the pictures of `orders` as one batch, large ones as several; each has the bits that it has alone.

    Nothing is raised for what a target, a picture, a method or a lack of memory causes: it is that order's outcome.
    Field paths begin with "method", "input.targets[0]" or name what of the request is wrong.
    """

    def attempt(places: list[int]) -> Generator[Ended, None, list[Explained]]:
        return _make(plan, [orders[place] for place in places])

    def blame(place: int, error: BaseException) -> WhylightError:
        return _blame(plan, orders[place], error)

    most = max(1, PIXELS_TOGETHER // (plan.size[0] * plan.size[1]))
    return in_parts([order.cancel for order in orders], attempt, blame, most)


def _make(plan: LongPlan, orders: Sequence[Order]) -> Generator[Ended, None, list[Explained]]:
    assert isinstance(plan.method, Synthesis)
    model = plan.model
    cancel = CancelToken([order.cancel for order in orders])
    subject = model.subject(cancel, plan.others)
    task = SynthesisTask(
        targets=tuple(order.target for order in orders),
        pictures=torch.from_numpy(np.stack([order.pictures for order in orders])).to(model.device, model.dtype),
        seeds=tuple(order.seed for order in orders),
        size=plan.size,
        cancel=cancel,
    )

    def on_progress(step: Progress) -> None:
        _check_progress(plan, step, len(orders))
        for row, order in enumerate(orders):
            if order.watcher is not None and not order.cancel.cancelled:
                order.watcher.step(step.step, step.total, partial(_losses, step, row), partial(_preview, step, row))

    steps = plan.method.synthesise(subject, task, plan.options)
    made, busy = yield from advanced(plan, steps, cancel, Synthesised, on_progress)
    started = time.perf_counter()
    images, checks = _checked(plan, made, len(orders))
    batch = _batch_of(subject, task, images)
    resolved = subject.resolve(batch) if plan.targeted else [None] * len(orders)
    predictions = predict(plan, subject, batch)
    busy += time.perf_counter() - started
    options = plan.options.model_dump(mode="json")
    answers = []
    for row, (order, what) in enumerate(zip(orders, resolved, strict=True)):
        started = time.perf_counter()
        artifacts = tuple(_artifact(output, images[row]) for output in plan.outputs)
        explanation = Explanation(
            method=plan.method.name,
            method_version=plan.method.version,
            options=options,
            target=what.target if what else None,
            target_label=what.label if what else "",
            target_score=what.score if what else 0.0,
            map_min=0.0,
            map_max=0.0,
            artifacts=artifacts,
            checks={name: values[row] for name, values in checks.items()},
            seed=order.seed if plan.stochastic else None,
            execution=Execution(
                batch_size=len(orders),
                compute_time=busy,
                decode_time=order.decode_time,
                render_time=time.perf_counter() - started,
                device=str(model.device),
            ),
        )
        size = (plan.size[1], plan.size[0])
        answers.append(Explained(predictions[row], (explanation,), original_size=size, input_size=size))
    return answers


def _batch_of(subject: Subject, task: SynthesisTask, images: Tensor) -> Batch:
    """Return the results as inputs, so that the model can be asked about them."""
    targets = tuple(target for target in task.targets if target is not None)
    inputs = subject.inputs_of(images.to(task.pictures))
    return Batch(inputs, targets, tuple(range(len(targets))), task.cancel)


def _check_progress(plan: LongPlan, step: Progress, count: int) -> None:
    for name, values in step.losses.items():
        if not isinstance(values, Tensor) or values.shape != (count,):
            raise method_failed(plan.offered, f"gave a loss {name!r} that is not one number for each picture")
    if step.images is not None and (step.images.dim() != 4 or len(step.images) != count):
        raise method_failed(plan.offered, f"showed images {list(step.images.shape)} of {count} pictures")


def _checked(plan: LongPlan, made: Synthesised, count: int) -> tuple[Tensor, Mapping[str, list[float]]]:
    """Return the images, float32 in 0..1, and each check's numbers.

    Raises:
        MethodFailed: they are not one finite image of the plan's size and one number for each picture.
    """
    shape = (count, plan.model.input_channels, *plan.size)
    images = made.images
    if not isinstance(images, Tensor) or images.shape != shape or not images.is_floating_point():
        raise method_failed(plan.offered, f"made something other than images of shape {list(shape)}")
    images = images.detach().to(torch.float32)
    if not bool(torch.isfinite(images).all()):
        raise method_failed(plan.offered, "made an image with NaN or infinity")
    numbers = {}
    for name, values in made.checks.items():
        if not isinstance(values, Tensor) or values.shape != (count,):
            raise method_failed(plan.offered, f"gave a check {name!r} that is not one number for each picture")
        numbers[name] = [float(value) for value in values.detach().tolist()]
    return images.clamp(0, 1), numbers


def _losses(step: Progress, row: int) -> dict[str, float]:
    return {name: float(values[row]) for name, values in step.losses.items()}


def _preview(step: Progress, row: int) -> Shown | None:
    """Return what there is to see of one picture; None where the method shows nothing, or nothing that is a picture."""
    if step.images is None or step.images.shape[1] not in (1, 3):
        return None
    return Shown(_pixels(step.images[row]))


def _artifact(output: Output, image: Tensor) -> Artifact:
    if isinstance(output, PictureOutput):
        return encoded(output, _pixels(image))
    assert isinstance(output, MapOutput)  # the plan refuses all others
    if output.dtype == "uint8":
        return Map(output.name, _bytes(image))
    array: npt.NDArray[Any] = image.cpu().numpy().astype(output.dtype)
    return Map(output.name, array)


def _bytes(image: Tensor) -> npt.NDArray[np.uint8]:
    array: npt.NDArray[np.uint8] = (image.detach().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return array


def _pixels(image: Tensor) -> npt.NDArray[np.uint8]:
    """Return `[H, W, 3]`, or `[H, W]` for grey."""
    pixels = np.ascontiguousarray(_bytes(image).transpose(1, 2, 0))
    return pixels[:, :, 0] if pixels.shape[2] == 1 else pixels


def _blame(plan: LongPlan, order: Order, error: BaseException) -> WhylightError:
    """Tell what made one picture fail on its own: what was asked, its size, or the method."""
    if isinstance(error, WhylightError):
        return placed(error, "input.targets[0]")
    if plan.size != plan.model.input_size and not _runs(plan, order):
        height, width = plan.model.input_size
        return InvalidInput(
            f"the model {plan.model.name!r} does not take {plan.size[1]} x {plan.size[0]} pixels; "
            f"its own are {width} x {height}",
            field="size",
        )
    return failure_of(plan, error)


def placed(error: WhylightError, target: str) -> WhylightError:
    """Put `target` in place of the "target" that an error of the subject names, and "options" below "method"."""
    return error.locate({"options": "method.options", "target.label": target, "target": target})


def _runs(plan: LongPlan, order: Order) -> bool:
    """Whether the model takes inputs of this size at all."""
    model = plan.model
    grey = torch.zeros(1, model.input_channels, *plan.size, device=model.device, dtype=model.dtype)
    try:
        model.subject(order.cancel).forward(grey)
    except Exception:
        return False
    return True
