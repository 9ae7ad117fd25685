"""Runs a method on one batch and checks what it gives; knows neither callers nor pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from whylight.decode import DecodedInput
from whylight.explainer.gathering import Gathered, gather
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
    held: Gathered | None = None,
) -> Batch:
    """Put inputs of one size together, on the model's device, pictures normalised by its transform; no seeds.

    Their companions have one shape each. `held` are the same inputs, if they are on the device by now.
    """
    rows = tuple(row for row, wanted in enumerate(targets) for _ in wanted)
    flat = tuple(target for wanted in targets for target in wanted)
    held = gather(model, inputs) if held is None else held
    return Batch(_assembled(model, held), flat, rows, cancel, companions=_companions(model, held))


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


def stacked(model: Model, inputs: Sequence[DecodedInput]) -> Tensor:
    """Return `[N, C, H, W]` in the order of `inputs`, which may be pictures and arrays side by side."""
    return _assembled(model, gather(model, inputs))


def _assembled(model: Model, held: Gathered) -> Tensor:
    """Return inputs `[N, C, H, W]` in the order of their rows, pictures normalised."""
    parts: list[Tensor] = []
    if held.pixels is not None:
        parts.append(model.transform.normalise(held.pixels, dtype=model.dtype))
    if held.values is not None:
        parts.append(held.values.to(model.dtype))
    if len(parts) == 1:
        return parts[0]
    return torch.cat(parts)[torch.tensor(held.pictures + held.arrays, device=model.device).argsort()]


def _companions(model: Model, held: Gathered) -> dict[str, Tensor]:
    """Return the companions `[N, ...]`, floats in the model's type."""
    return {
        name: values.to(model.dtype) if values.is_floating_point() else values
        for name, values in held.companions.items()
    }
