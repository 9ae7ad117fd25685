"""Runs a method on one batch and checks what it gives; knows neither callers nor pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from whylight.decode import DecodedInput
from whylight.explainer.plan import ExplanationPlan, PlannedMethod, method_failed
from whylight.explanation import Prediction
from whylight.method import Batch, Maps
from whylight.target import Target

if TYPE_CHECKING:
    from whylight.explainer.long_plan import LongPlan
    from whylight.models import Model
    from whylight.subject import CancelToken, Subject


@dataclass(frozen=True)
class Attributed:
    """Checked maps `[M, h, w]`, float32 and finite, and for each check its M numbers."""

    maps: Tensor
    checks: Mapping[str, Sequence[float]]


def batch_of(
    model: Model,
    inputs: Sequence[DecodedInput],
    targets: Sequence[tuple[Target, ...]],
    cancel: CancelToken,
) -> Batch:
    """Put inputs of one size together, on the model's device, pictures normalised by its transform; no seeds.

    Their companions have one shape each.
    """
    rows = tuple(row for row, wanted in enumerate(targets) for _ in wanted)
    flat = tuple(target for wanted in targets for target in wanted)
    return Batch(stacked(model, inputs), flat, rows, cancel, companions=_companions(model, inputs))


def attribute(planned: PlannedMethod, subject: Subject, batch: Batch) -> Attributed:
    """Run a method.

    Raises:
        MethodFailed: it gave something other than one finite map for each target, or wrote into the inputs, which
            other methods are given too.
        Exception: whatever the method raises.
    """
    version = batch.inputs._version
    made = planned.method.attribute(subject, batch, planned.options)
    if batch.inputs._version != version:
        raise method_failed(planned.offered, "changed its inputs in place")
    maps, checks = (made.maps, made.checks) if isinstance(made, Maps) else (made, {})
    count = len(batch.targets)
    if not isinstance(maps, Tensor):
        raise method_failed(planned.offered, f"gave {type(maps).__name__}, not a tensor of maps")
    if maps.dim() != 3 or maps.shape[0] != count or 0 in maps.shape or not maps.is_floating_point():
        raise method_failed(
            planned.offered, f"gave {list(maps.shape)} {maps.dtype}, not maps [{count}, h, w] of a float type"
        )
    maps = maps.detach().to(batch.inputs.device, torch.float32).contiguous()
    if not bool(torch.isfinite(maps).all()):
        raise method_failed(planned.offered, "gave a map with NaN or infinity")
    numbers = {}
    for name, values in checks.items():
        if not isinstance(values, Tensor) or values.shape != (count,):
            raise method_failed(planned.offered, f"gave a check {name!r} that is not one number for each target")
        numbers[name] = [float(value) for value in values.detach().tolist()]
    return Attributed(maps, numbers)


def predict(plan: ExplanationPlan | LongPlan, subject: Subject, batch: Batch) -> list[tuple[Prediction, ...]]:
    """Return the highest predictions of each input, best first; none where the output is no vector of class scores."""
    if plan.top_predictions == 0:
        return [()] * len(batch.inputs)
    scores = subject.outputs(batch)
    if scores.dim() != 2:
        return [()] * len(batch.inputs)
    scores = scores.detach().float()
    order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, : plan.top_predictions]
    chosen = torch.stack((scores, torch.softmax(scores, dim=1))).gather(2, order.expand(2, -1, -1)).cpu()
    labels = plan.model.labels
    return [
        tuple(
            Prediction(index, labels[index] if index < len(labels) else "", score, probability)
            for index, score, probability in zip(*columns, strict=True)
        )
        for columns in zip(order.tolist(), chosen[0].tolist(), chosen[1].tolist(), strict=True)
    ]


def _companions(model: Model, inputs: Sequence[DecodedInput]) -> dict[str, Tensor]:
    """Return the companions `[N, ...]`, floats in the model's type."""
    together = {}
    for name in model.companions:
        values = gathered([item.companions[name] for item in inputs], model.device)
        together[name] = values.to(model.dtype) if values.is_floating_point() else values
    return together


def gathered(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> Tensor:
    """Return arrays of one shape and type on a device, one behind the other.

    A GPU fetches them from pinned memory while the thread goes on; torch keeps that memory until it has done so.
    """
    if device.type != "cuda":
        return torch.from_numpy(np.stack(arrays)).to(device)
    dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    together = torch.empty((len(arrays), *arrays[0].shape), dtype=dtype, pin_memory=True)
    np.stack(arrays, out=together.numpy())
    return together.to(device, non_blocking=True)


def stacked(model: Model, inputs: Sequence[DecodedInput]) -> Tensor:
    """Return `[N, C, H, W]` in the order of `inputs`, which may be pictures and arrays side by side."""
    pictures = [n for n, item in enumerate(inputs) if item.is_picture]
    arrays = [n for n, item in enumerate(inputs) if not item.is_picture]
    parts: list[Tensor] = []
    if pictures:
        pixels = gathered([inputs[n].values for n in pictures], model.device)  # bytes: a quarter of what floats take
        parts.append(model.transform.normalise(pixels, dtype=model.dtype))
    if arrays:
        parts.append(gathered([inputs[n].values for n in arrays], model.device).to(model.dtype))
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)[torch.tensor(pictures + arrays, device=model.device).argsort()]
