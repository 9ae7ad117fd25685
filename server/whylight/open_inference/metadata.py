"""What a model takes and gives, as tensors: one table for metadata and for Triton's configuration; asks nobody."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from whylight.open_inference import outputs
from whylight.open_inference.messages import ModelConfigResponse, ModelMetadataResponse
from whylight.open_inference.names import Asked
from whylight.open_inference.requests import IMAGE, IMAGE_FILE, MODEL_INPUT, TARGET
from whylight.open_inference.tensors import BYTES
from whylight.v1 import explanation_pb2 as v1

PLATFORM = "whylight"

_ANY = -1
_CONFIG_TYPES = {"UINT8": 2, "INT64": 9, "FP32": 11, BYTES: 13}
_COMPANION_TYPES = {v1.DATA_TYPE_FLOAT32: "FP32", v1.DATA_TYPE_INT64: "INT64"}


@dataclass(frozen=True)
class TensorKind:
    """What a tensor is, without its first dimension, which counts pictures."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    optional: bool = False


def inputs_of(asked: Asked) -> Iterator[TensorKind]:
    """Yield what a request may have. Of the pictures' three tensors it has one."""
    model = asked.model
    yield TensorKind(IMAGE, "UINT8", (_ANY, _ANY, 3), optional=True)
    yield TensorKind(IMAGE_FILE, BYTES, (), optional=True)
    yield TensorKind(MODEL_INPUT, "FP32", (model.input_channels or _ANY, _ANY, _ANY), optional=True)
    yield TensorKind(TARGET, "INT64", (_ANY,), optional=True)
    for name, companion in sorted(model.companions.items()):
        yield TensorKind(name, _COMPANION_TYPES[companion.dtype], tuple(companion.shape))


def outputs_of() -> Iterator[TensorKind]:
    """Yield what a request may ask for, those first that come when it asks for nothing."""
    artifacts = {
        outputs.MAP: TensorKind(outputs.MAP, "FP32", (_ANY, _ANY, _ANY)),
        outputs.MASK: TensorKind(outputs.MASK, "UINT8", (_ANY, _ANY, _ANY)),
        outputs.BOXES: TensorKind(outputs.BOXES, "FP32", (_ANY, _ANY, 5)),
    }
    integers = (outputs.TARGET_INDEX, outputs.PREDICTED_INDEX)
    floats = (outputs.TARGET_SCORE, outputs.PREDICTED_SCORE, outputs.PREDICTED_PROBABILITY)
    for name in outputs.NAMES:
        datatype = "INT64" if name in integers else "FP32" if name in floats else BYTES
        yield artifacts.get(name) or TensorKind(name, datatype, (_ANY,))


def metadata(asked: Asked) -> ModelMetadataResponse:
    """Return the tensors of a model, the first dimension of each counting pictures."""
    response = ModelMetadataResponse(name=asked.name, versions=[asked.version], platform=PLATFORM)
    for kind in inputs_of(asked):
        response.inputs.add(name=kind.name, datatype=kind.datatype, shape=(_ANY, *kind.shape))
    for kind in outputs_of():
        response.outputs.add(name=kind.name, datatype=kind.datatype, shape=(_ANY, *kind.shape))
    return response


def config(asked: Asked, max_inputs: int) -> ModelConfigResponse:
    """Return the tensors of a model in Triton's words, which leave out the first dimension. A scalar there is [1]."""
    response = ModelConfigResponse()
    config = response.config
    config.name, config.platform, config.backend = asked.name, PLATFORM, PLATFORM
    config.max_batch_size = max_inputs
    config.model_transaction_policy.decoupled = False
    for kind in inputs_of(asked):
        config.input.add(
            name=kind.name,
            data_type=_CONFIG_TYPES[kind.datatype],
            dims=kind.shape or (1,),
            optional=kind.optional,
        )
    for kind in outputs_of():
        config.output.add(name=kind.name, data_type=_CONFIG_TYPES[kind.datatype], dims=kind.shape or (1,))
    return response
