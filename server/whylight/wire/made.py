"""Events of a synthesis or an inspection, from messages to our words; knows not how they travel."""

from __future__ import annotations

from whylight.made import (
    InspectionEvent,
    InspectionProgress,
    InspectionResult,
    SynthesisEvent,
    SynthesisFailure,
    SynthesisPreview,
    SynthesisProgress,
    SynthesisResult,
)
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.artifacts import picture_from_proto
from whylight.wire.errors import error_from_proto
from whylight.wire.explanations import explanation_from_proto, prediction_from_proto
from whylight.wire.reading import unreadable


def synthesis_event_from_proto(message: pb.SynthesizeResponse) -> SynthesisEvent:
    """Return what a response tells of a synthesis.

    Raises:
        InternalError: it is not one that this version can read (RESPONSE_INVALID).
    """
    kind = message.WhichOneof("event")
    if kind == "progress":
        progress = message.progress
        return SynthesisProgress(progress.target_index, progress.step, progress.total_steps, dict(progress.losses))
    if kind == "preview":
        preview = message.preview
        return SynthesisPreview(preview.target_index, preview.step, picture_from_proto(preview.picture, "preview"))
    if kind == "result":
        result = message.result
        if result.HasField("error"):
            return SynthesisFailure(result.target_index, error_from_proto(result.error))
        predictions = tuple(prediction_from_proto(prediction) for prediction in result.predictions)
        return SynthesisResult(result.target_index, predictions, explanation_from_proto(result.explanation))
    raise unreadable("an event of a synthesis is of a kind that this version cannot read")


def inspection_event_from_proto(message: pb.InspectResponse) -> InspectionEvent:
    """Return what a response tells of an inspection.

    Raises:
        InternalError: it is not one that this version can read (RESPONSE_INVALID).
    """
    kind = message.WhichOneof("event")
    if kind == "progress":
        return InspectionProgress(message.progress.step, message.progress.total_steps)
    if kind == "result":
        return InspectionResult(explanation_from_proto(message.result.explanation))
    raise unreadable("an event of an inspection is of a kind that this version cannot read")
