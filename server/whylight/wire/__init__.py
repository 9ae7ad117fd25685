"""Conversions between protobuf messages and the words of the domain; knows neither torch, gRPC nor pluggy.

Reading checks what a stranger may have sent and raises `whylight.errors.InvalidInput` with the path of the offending
field; `field` is the path of the message that is read, such as ``inputs[3].tensor``, and may be empty.
"""

from __future__ import annotations

from whylight.wire.artifacts import artifact_from_proto, artifact_to_proto, picture_from_proto, picture_to_proto
from whylight.wire.errors import error_from_proto, error_to_proto
from whylight.wire.explanations import (
    explained_from_proto,
    explained_to_proto,
    explanation_from_proto,
    explanation_to_proto,
    prediction_from_proto,
    prediction_to_proto,
    result_from_proto,
    result_to_proto,
)
from whylight.wire.inputs import companions_from_proto, input_from_proto, input_to_proto
from whylight.wire.kinds import LONG_KINDS, is_long
from whylight.wire.made import (
    inspection_event_from_proto,
    synthesis_event_from_proto,
)
from whylight.wire.measurements import (
    measurement_from_proto,
    measurement_to_proto,
    ranking_from_proto,
    ranking_to_proto,
)
from whylight.wire.options import dict_to_struct, struct_to_dict
from whylight.wire.outputs import output_from_proto, output_to_proto, outputs_from_proto
from whylight.wire.priorities import priority_from_proto, priority_to_proto
from whylight.wire.progress import min_interval_from_proto, progress_from_proto, progress_spec_to_proto
from whylight.wire.scalars import duration_to_seconds, seconds_to_duration
from whylight.wire.targets import target_from_proto, target_to_proto, targets_from_proto
from whylight.wire.tensors import array_to_tensor, tensor_to_array

__all__ = [
    "LONG_KINDS",
    "array_to_tensor",
    "artifact_from_proto",
    "artifact_to_proto",
    "companions_from_proto",
    "dict_to_struct",
    "duration_to_seconds",
    "error_from_proto",
    "error_to_proto",
    "explained_from_proto",
    "explained_to_proto",
    "explanation_from_proto",
    "explanation_to_proto",
    "input_from_proto",
    "input_to_proto",
    "inspection_event_from_proto",
    "is_long",
    "measurement_from_proto",
    "measurement_to_proto",
    "min_interval_from_proto",
    "output_from_proto",
    "output_to_proto",
    "outputs_from_proto",
    "picture_from_proto",
    "picture_to_proto",
    "prediction_from_proto",
    "prediction_to_proto",
    "priority_from_proto",
    "priority_to_proto",
    "progress_from_proto",
    "progress_spec_to_proto",
    "ranking_from_proto",
    "ranking_to_proto",
    "result_from_proto",
    "result_to_proto",
    "seconds_to_duration",
    "struct_to_dict",
    "synthesis_event_from_proto",
    "target_from_proto",
    "target_to_proto",
    "targets_from_proto",
    "tensor_to_array",
]
