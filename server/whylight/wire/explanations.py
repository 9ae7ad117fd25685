"""Answers as messages and as dataclasses; knows neither how they were made nor how they travel."""

from __future__ import annotations

from whylight.errors import WhylightError
from whylight.explanation import Execution, Explained, Explanation, Prediction
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.artifacts import artifact_from_proto, artifact_to_proto, size_to_proto
from whylight.wire.errors import error_from_proto, error_to_proto
from whylight.wire.measurements import measurement_from_proto, measurement_to_proto
from whylight.wire.options import dict_to_struct, struct_to_dict
from whylight.wire.reading import reading, unreadable
from whylight.wire.scalars import duration_to_seconds, integer, seconds_to_duration
from whylight.wire.targets import target_from_proto, target_to_proto


def result_to_proto(result: Explained | WhylightError) -> pb.InputResult:
    """Return what came of one input as a message."""
    if isinstance(result, WhylightError):
        return pb.InputResult(error=error_to_proto(result))
    return pb.InputResult(explained=explained_to_proto(result))


def result_from_proto(message: pb.InputResult) -> Explained | WhylightError:
    """Return what came of one input: the answer, or the exception that stands in its place (returned, not raised).

    Raises:
        InternalError: the answer is not one that this version can read (RESPONSE_INVALID).
    """
    outcome = message.WhichOneof("outcome")
    if outcome is None:
        raise unreadable("a result holds neither an answer nor an error")
    if outcome == "error":
        return error_from_proto(message.error)
    return explained_from_proto(message.explained)


def explained_to_proto(explained: Explained) -> pb.Explained:
    """Return an answer as a message."""
    return pb.Explained(
        predictions=[prediction_to_proto(prediction) for prediction in explained.predictions],
        explanations=[explanation_to_proto(explanation) for explanation in explained.explanations],
        original_size=size_to_proto(explained.original_size),
        input_size=size_to_proto(explained.input_size),
    )


def explained_from_proto(message: pb.Explained) -> Explained:
    """Return a message as the answer that it is. Arrays are read-only views of the message's bytes.

    Raises:
        InternalError: the answer is not one that this version can read (RESPONSE_INVALID).
    """
    return Explained(
        tuple(prediction_from_proto(prediction) for prediction in message.predictions),
        tuple(explanation_from_proto(explanation) for explanation in message.explanations),
        (message.original_size.width, message.original_size.height),
        (message.input_size.width, message.input_size.height),
    )


def prediction_to_proto(prediction: Prediction) -> pb.Prediction:
    """Return a prediction as a message."""
    return pb.Prediction(
        class_index=prediction.class_index,
        label=prediction.label,
        score=prediction.score,
        probability=prediction.probability,
    )


def prediction_from_proto(message: pb.Prediction) -> Prediction:
    """Return a message as a prediction."""
    return Prediction(message.class_index, message.label, message.score, message.probability)


def explanation_to_proto(explanation: Explanation) -> pb.Explanation:
    """Return an explanation as a message."""
    execution = explanation.execution
    seed = explanation.seed
    return pb.Explanation(
        method=explanation.method,
        method_version=explanation.method_version,
        options=dict_to_struct(explanation.options),
        target=None if explanation.target is None else target_to_proto(explanation.target),
        target_label=explanation.target_label,
        target_score=explanation.target_score,
        map_min=explanation.map_min,
        map_max=explanation.map_max,
        artifacts=[artifact_to_proto(artifact) for artifact in explanation.artifacts],
        checks=explanation.checks,
        seed=None if seed is None else integer(seed, 64, signed=False, reason="REQUEST_INVALID", field="seed"),
        execution=pb.Execution(
            batch_size=execution.batch_size,
            queue_time=seconds_to_duration(execution.queue_time),
            compute_time=seconds_to_duration(execution.compute_time),
            decode_time=seconds_to_duration(execution.decode_time),
            render_time=seconds_to_duration(execution.render_time),
            device=execution.device,
            shared=execution.shared,
            cached=execution.cached,
        ),
        measurements=[measurement_to_proto(measurement) for measurement in explanation.measurements],
    )


def explanation_from_proto(message: pb.Explanation) -> Explanation:
    """Return a message as an explanation.

    Raises:
        InternalError: it is not one that this version can read (RESPONSE_INVALID).
    """
    execution = message.execution
    with reading(f"the explanation by {message.method}"):
        return Explanation(
            method=message.method,
            method_version=message.method_version,
            options=struct_to_dict(message.options),
            target=target_from_proto(message.target) if message.HasField("target") else None,
            target_label=message.target_label,
            target_score=message.target_score,
            map_min=message.map_min,
            map_max=message.map_max,
            artifacts=tuple(artifact_from_proto(artifact) for artifact in message.artifacts),
            checks=dict(message.checks),
            seed=message.seed if message.HasField("seed") else None,
            execution=Execution(
                execution.batch_size,
                duration_to_seconds(execution.queue_time),
                duration_to_seconds(execution.compute_time),
                duration_to_seconds(execution.decode_time),
                duration_to_seconds(execution.render_time),
                execution.device,
                tuple(execution.shared),
                execution.cached,
            ),
            measurements=tuple(measurement_from_proto(measurement) for measurement in message.measurements),
        )
