"""Checks what a request is, before anything is done for it; knows neither models nor methods, which the worker does.

What is wrong with the request fails the call; what is wrong with one input fails that input only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from whylight.errors import InvalidInput, WhylightError
from whylight.limits import Limits
from whylight.priority import Priority
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import (
    companions_from_proto,
    input_from_proto,
    output_to_proto,
    outputs_from_proto,
    priority_from_proto,
    target_to_proto,
    targets_from_proto,
)
from whylight.wire.scalars import NAME_LENGTH
from whylight.worker.v1 import worker_pb2

TOP_PREDICTIONS = 5
"""Predictions returned when the request does not say how many."""


@dataclass(frozen=True)
class CheckedRequest:
    """A request that is in order, but for the inputs that `refused` names.

    `seeds` has one entry for each method of `spec`, and then for each metric; equal work gives equal specs, however it
    was put. Every input holds its own targets. `own_targets` tells, for each input, whether they came with it or with
    the request.
    """

    spec: worker_pb2.PlanSpec
    seeds: tuple[int | None, ...]
    inputs: Sequence[v1.Input]
    own_targets: tuple[bool, ...]
    refused: dict[int, WhylightError]
    priority: Priority = Priority.INTERACTIVE


def check_request(
    request: v1.ExplainRequest | v1.EvaluateRequest, limits: Limits, default_model: str
) -> CheckedRequest:
    """Check a request and return it in its normal form. Changes `request`: its targets move into its inputs.

    What both kinds have is checked in one order, so that both are refused for the same.

    Raises:
        InvalidInput: something is wrong with the request itself.
    """
    check_count(request.inputs, limits.inputs, "inputs", least=1)
    check_count(request.methods, limits.methods, "methods", least=1)
    metrics = request.metrics if isinstance(request, v1.EvaluateRequest) else None
    if metrics is not None:
        check_count(metrics, limits.methods, "metrics", least=1)
    check_count(request.outputs, limits.outputs, "outputs")
    check_count(request.targets, limits.targets, "targets")
    check_name(request.model, "model")
    priority = priority_from_proto(request.priority)
    for index, method in enumerate(request.methods):
        check_method(method, limits, f"methods[{index}]")
    for index, metric in enumerate(metrics or ()):
        check_method(metric, limits, f"metrics[{index}]", kind="metric")
    # Written anew, for they are copied into each input: what we do not know in them would be multiplied.
    targets = [target_to_proto(target) for target in targets_from_proto(request.targets)] or [v1.Target(rank=0)]
    sharing = sum(not item.targets for item in request.inputs)
    if (size := sharing * sum(target.ByteSize() for target in targets)) > limits.message_bytes:
        raise InvalidInput(
            f"the targets take {size} bytes once each of {sharing} inputs has them, more than the "
            f"{limits.message_bytes} of a message; ask for fewer inputs at once",
            reason="REQUEST_TOO_LARGE",
            field="targets",
        )
    outputs = [output_to_proto(output) for output in outputs_from_proto(request.outputs)]
    if metrics is not None and not request.outputs:
        outputs = []
    top_predictions = request.top_predictions if request.HasField("top_predictions") else TOP_PREDICTIONS
    spec = worker_pb2.PlanSpec(
        model=request.model or default_model,
        methods=[v1.MethodCall(name=method.name, options=method.options) for method in request.methods],
        outputs=outputs,
        top_predictions=top_predictions,
        metrics=[v1.MetricCall(name=metric.name, options=metric.options) for metric in metrics or ()],
    )
    refused: dict[int, WhylightError] = {}
    own_targets = tuple(bool(item.targets) for item in request.inputs)
    for index, item in enumerate(request.inputs):
        try:
            check_input(item, limits, f"inputs[{index}]")
        except WhylightError as error:
            refused[index] = error
        if not item.targets:
            item.targets.extend(targets)
    calls = (*request.methods, *(metrics or ()))
    seeds = tuple(call.seed if call.HasField("seed") else None for call in calls)
    return CheckedRequest(spec, seeds, request.inputs, own_targets, refused, priority)


def check_count(values: Sequence[object], limit: int, things: str, *, field: str = "", least: int = 0) -> None:
    """Refuse too few or too many."""
    if len(values) < least:
        raise InvalidInput(f"there are no {things}; at least {least} is needed", field=field or things)
    if len(values) > limit:
        raise InvalidInput(
            f"{len(values)} {things}, more than the {limit} that are allowed",
            reason=f"TOO_MANY_{things.upper()}",
            field=field or things,
        )


def check_method(method: v1.MethodCall | v1.MetricCall, limits: Limits, field: str, *, kind: str = "method") -> None:
    """Refuse a method, or a metric, without a name, or with more options than are allowed."""
    if not method.name:
        raise InvalidInput(f"the {kind} has no name", field=f"{field}.name")
    check_name(method.name, f"{field}.name")
    if (size := method.options.ByteSize()) > limits.options_bytes:
        raise InvalidInput(
            f"{size} bytes of options, more than the {limits.options_bytes} that are allowed",
            reason="OPTIONS_TOO_LARGE",
            field=f"{field}.options",
        )


def check_name(name: str, field: str) -> None:
    """Refuse a name that is longer than any is."""
    if len(name) > NAME_LENGTH:
        raise InvalidInput(f"a name of {len(name)} characters; {NAME_LENGTH} are allowed", field=field)


def check_input(item: v1.Input, limits: Limits, field: str) -> None:
    """Refuse an input that is none, with what belongs to it."""
    check_count(item.targets, limits.targets, "targets", field=f"{field}.targets")
    targets_from_proto(item.targets, f"{field}.targets")
    input_from_proto(item, field, max_elements=limits.tensor_elements)
    companions_from_proto(item, field)
