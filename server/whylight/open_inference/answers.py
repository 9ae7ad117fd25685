"""From an ExplainResponse to a ModelInferResponse: results of single inputs become tensors; knows not how they came."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from google.protobuf import json_format

from whylight.errors import InvalidInput
from whylight.open_inference import outputs
from whylight.open_inference.messages import ModelInferResponse
from whylight.open_inference.outputs import ARTIFACTS
from whylight.open_inference.requests import Question
from whylight.open_inference.tensors import BYTES, write_tensor
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import error_from_proto

NO_CLASS = -1
"""Index of a target that is no class."""

FINAL_RESPONSE = "triton_final_response"
"""Name of the mark on the last answer to a request of a stream."""


def write_answer(question: Question, response: v1.ExplainResponse) -> ModelInferResponse:
    """Return the answer to a question.

    Raises:
        WhylightError: an input failed: a tensor has no place for an error, so the call fails with that of the first. Or
            the artifacts of the inputs differ in size (OUTPUT_INVALID).
    """
    for index, result in enumerate(response.results):
        if result.HasField("error"):
            error = question.localised(error_from_proto(result.error))
            error.metadata = {**error.metadata, "input": str(index)}
            raise error
    answer = ModelInferResponse(model_name=question.asked.name, model_version=question.asked.version, id=question.id)
    answer.parameters["model_digest"].string_param = response.model_digest
    if question.parameters.mark_final:
        answer.parameters[FINAL_RESPONSE].bool_param = True
    explained = [result.explained for result in response.results]
    for name in question.wanted.names:
        if name in _BY_PREDICTION:
            _write_predictions(answer, name, explained)
        else:
            _write_explanations(answer, name, explained, question)
    return answer


def _write_predictions(answer: ModelInferResponse, name: str, explained: Sequence[v1.Explained]) -> None:
    shape = (len(explained), min(len(one.predictions) for one in explained))
    predictions = [one.predictions[rank] for one in explained for rank in range(shape[1])]
    if name == outputs.PREDICTED_LABEL:
        write_tensor(answer, name, BYTES, shape, (prediction.label.encode() for prediction in predictions))
    elif name == outputs.PREDICTED_INDEX:
        _write_integers(answer, name, shape, (prediction.class_index for prediction in predictions))
    elif name == outputs.PREDICTED_SCORE:
        _write_floats(answer, name, shape, (prediction.score for prediction in predictions))
    else:
        _write_floats(answer, name, shape, (prediction.probability for prediction in predictions))


_BY_PREDICTION = frozenset(
    {outputs.PREDICTED_INDEX, outputs.PREDICTED_LABEL, outputs.PREDICTED_SCORE, outputs.PREDICTED_PROBABILITY}
)


def _write_explanations(
    answer: ModelInferResponse, name: str, explained: Sequence[v1.Explained], question: Question
) -> None:
    counts = {len(one.explanations) for one in explained}
    if len(counts) != 1:
        raise _ragged(name, f"the pictures have {' and '.join(map(str, sorted(counts)))} targets")
    shape = (len(explained), counts.pop())
    explanations = [explanation for one in explained for explanation in one.explanations]
    if name == outputs.TARGET_INDEX:
        _write_integers(answer, name, shape, map(_class_index, explanations))
    elif name == outputs.TARGET_LABEL:
        write_tensor(answer, name, BYTES, shape, (one.target_label.encode() for one in explanations))
    elif name == outputs.TARGET_SCORE:
        _write_floats(answer, name, shape, (one.target_score for one in explanations))
    elif name == outputs.EXPLANATION:
        write_tensor(answer, name, BYTES, shape, map(_facts, explanations))
    else:
        _write_artifacts(answer, name, shape, [_artifact(one, ARTIFACTS[name]) for one in explanations], question)


def _write_artifacts(
    answer: ModelInferResponse, name: str, shape: tuple[int, int], artifacts: Sequence[v1.Artifact], question: Question
) -> None:
    if name in (outputs.OVERLAY, outputs.HEATMAP):
        write_tensor(answer, name, BYTES, shape, (artifact.picture.data for artifact in artifacts))
    elif name == outputs.BOXES:
        limit = question.wanted.box_limit
        boxes = np.zeros((len(artifacts), limit, 5), "<f4")
        for row, artifact in zip(boxes, artifacts, strict=True):
            for place, box in zip(row, artifact.boxes.boxes, strict=False):
                place[:] = (box.left, box.top, box.right, box.bottom, box.score)
        write_tensor(answer, name, "FP32", (*shape, limit, 5), boxes.tobytes())
    else:
        sizes = {tuple(artifact.tensor.shape) for artifact in artifacts}
        if len(sizes) != 1:
            raise _ragged(name, f"they have the sizes {', '.join(str(list(size)) for size in sorted(sizes)[:4])}")
        datatype = question.wanted.map_type if name == outputs.MAP else "UINT8"
        data = b"".join(artifact.tensor.data for artifact in artifacts)
        write_tensor(answer, name, datatype, (*shape, *sizes.pop()), data)


def _artifact(explanation: v1.Explanation, name: str) -> v1.Artifact:
    return next(artifact for artifact in explanation.artifacts if artifact.name == name)


def _class_index(explanation: v1.Explanation) -> int:
    is_class = explanation.target.WhichOneof("kind") == "class_index"
    return explanation.target.class_index if is_class else NO_CLASS


def _facts(explanation: v1.Explanation) -> bytes:
    """Return what there is to an explanation besides its artifacts, as protobuf's JSON."""
    facts = v1.Explanation()
    facts.CopyFrom(explanation)
    facts.ClearField("artifacts")
    return json_format.MessageToJson(facts, preserving_proto_field_name=True, indent=None).encode()


def _write_integers(answer: ModelInferResponse, name: str, shape: tuple[int, int], values: Iterable[int]) -> None:
    write_tensor(answer, name, "INT64", shape, np.fromiter(values, "<i8").tobytes())


def _write_floats(answer: ModelInferResponse, name: str, shape: tuple[int, int], values: Iterable[float]) -> None:
    write_tensor(answer, name, "FP32", shape, np.fromiter(values, "<f4").tobytes())


def _ragged(name: str, why: str) -> InvalidInput:
    return InvalidInput(
        f"{name} cannot be one tensor: {why}; send such pictures in calls of their own, or ask for another canvas",
        reason="OUTPUT_INVALID",
        field=f"outputs[{name}]",
    )
