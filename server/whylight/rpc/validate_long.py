"""Checks what a request for a synthesis or an inspection is, before anything is done for it; knows no models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whylight.errors import WhylightError
from whylight.limits import Limits
from whylight.outputs import PictureOutput
from whylight.priority import Priority
from whylight.rpc.validate import TOP_PREDICTIONS, check_count, check_input, check_method, check_name
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import (
    min_interval_from_proto,
    output_to_proto,
    outputs_from_proto,
    priority_from_proto,
    target_to_proto,
    targets_from_proto,
)
from whylight.worker.v1 import worker_pb2


@dataclass(frozen=True)
class CheckedLong:
    """A request that is in order: equal work gives equal specs; `inputs` holds targets only, `pictures` the data."""

    spec: worker_pb2.PlanSpec
    inputs: Sequence[v1.Input]
    pictures: Sequence[v1.Input]
    seed: int | None
    progress: v1.ProgressSpec
    preview_interval: int = 0
    priority: Priority = Priority.INTERACTIVE


def check_synthesis(request: v1.SynthesizeRequest, limits: Limits, default_model: str) -> CheckedLong:
    """Check a request for a synthesis, and return one input for each of its targets.

    Raises:
        InvalidInput: something is wrong with it.
    """
    targets = _check(request, limits)
    check_count(request.outputs, limits.outputs, "outputs")
    outputs = outputs_from_proto(request.outputs) if request.outputs else (PictureOutput(),)
    spec = _spec(request, default_model)
    spec.kind = catalog_pb2.METHOD_KIND_SYNTHESIS
    spec.outputs.extend(output_to_proto(output) for output in outputs)
    spec.top_predictions = request.top_predictions if request.HasField("top_predictions") else TOP_PREDICTIONS
    spec.picture_count = len(request.inputs)
    spec.targeted = bool(targets)
    if request.HasField("size"):
        spec.size.CopyFrom(v1.Size(width=request.size.width, height=request.size.height))
    inputs = [v1.Input(targets=[target]) for target in targets] or [v1.Input()]
    return CheckedLong(
        spec,
        inputs,
        _pictures(request.inputs),
        _seed(request.method),
        request.progress,
        request.preview_interval,
        priority_from_proto(request.priority),
    )


def check_inspection(request: v1.InspectRequest, limits: Limits, default_model: str) -> CheckedLong:
    """Check a request for an inspection, and return its one input.

    Raises:
        InvalidInput: something is wrong with it.
    """
    targets = _check(request, limits)
    spec = _spec(request, default_model)
    spec.kind = catalog_pb2.METHOD_KIND_INSPECTION
    inputs = [v1.Input(targets=targets)]
    return CheckedLong(
        spec,
        inputs,
        _pictures(request.inputs),
        _seed(request.method),
        request.progress,
        priority=priority_from_proto(request.priority),
    )


def locate_long(error: WhylightError, index: int) -> WhylightError:
    """Return an error of an item in the words of its request: the item's first target is target `index`."""
    return error.locate({"input.targets[0]": f"targets[{index}]", "input.targets": "targets"})


def _check(request: v1.SynthesizeRequest | v1.InspectRequest, limits: Limits) -> list[v1.Target]:
    check_name(request.model, "model")
    check_method(request.method, limits, "method")
    check_count(request.targets, limits.targets, "targets")
    check_count(request.inputs, limits.inputs, "inputs")
    min_interval_from_proto(request.progress)
    for index, item in enumerate(request.inputs):
        check_input(item, limits, f"inputs[{index}]")
    return [target_to_proto(target) for target in targets_from_proto(request.targets)]


def _spec(request: v1.SynthesizeRequest | v1.InspectRequest, default_model: str) -> worker_pb2.PlanSpec:
    method = v1.MethodCall(name=request.method.name, options=request.method.options)
    return worker_pb2.PlanSpec(model=request.model or default_model, methods=[method])


def _pictures(inputs: Sequence[v1.Input]) -> list[v1.Input]:
    """Return the data of inputs and nothing else."""
    pictures = []
    for item in inputs:
        if item.WhichOneof("data") == "tensor":
            pictures.append(v1.Input(tensor=item.tensor))
        else:
            pictures.append(v1.Input(image=item.image))
    return pictures


def _seed(method: v1.MethodCall) -> int | None:
    return method.seed if method.HasField("seed") else None
