"""From a ModelInferRequest to an ExplainRequest, and errors back into the words of the first; answers neither."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from whylight.errors import InvalidInput, WhylightError
from whylight.limits import Limits
from whylight.open_inference.messages import ModelInferRequest
from whylight.open_inference.names import Asked, find, find_method
from whylight.open_inference.outputs import Wanted, read_outputs
from whylight.open_inference.parameters import OPTION, Parameters, read_parameters
from whylight.open_inference.tensors import BYTES, InputTensor, read_tensors
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2

IMAGE = "IMAGE"
IMAGE_FILE = "IMAGE_FILE"
MODEL_INPUT = "MODEL_INPUT"
TARGET = "TARGET"

PICTURES: Mapping[str, tuple[str, ...]] = {
    IMAGE: ("UINT8",),
    IMAGE_FILE: (BYTES,),
    MODEL_INPUT: ("FP32", "FP16", "BF16"),
}
"""Tensors that pictures come in, of which a request has one, and their types."""

_COMPANION_TYPES = {"FP32": v1.DATA_TYPE_FLOAT32, "INT64": v1.DATA_TYPE_INT64}


@dataclass(frozen=True)
class Question:
    """A request in native words, and what is needed to answer it in the words of the protocol."""

    request: v1.ExplainRequest
    asked: Asked
    wanted: Wanted
    parameters: Parameters
    pictures: str
    id: str

    def localised(self, error: WhylightError) -> WhylightError:
        """Return an error about the native request with its field paths in the words of the protocol's."""
        native = self.request
        moves = {f"methods[0].options.{name}": f"parameters[{OPTION}{name}]" for name in self.parameters.single_options}
        moves |= {"methods[0].options": "parameters[options]", "methods[0].seed": "parameters[seed]"}
        moves |= dict.fromkeys(("model", "methods[0].name", "methods[0]", "methods"), "model_name")
        moves |= {name: f"parameters[{name}]" for name in ("top_predictions", "priority")}
        moves |= {"targets": "parameters[targets]"} if len(native.targets) > 1 else {"targets[0]": "parameters[target]"}
        for index, item in enumerate(native.inputs):
            place = f"inputs[{self.pictures}][{index}]"
            moves[f"inputs[{index}].targets"] = f"inputs[{TARGET}][{index}]"
            for name in item.companions:
                moves[f"inputs[{index}].companions[{name}]"] = f"inputs[{name}][{index}]"
            moves |= {f"inputs[{index}]{kind}": place for kind in (".tensor", ".image", "")}
        for index, (name, spec) in enumerate(zip(self.wanted.sources, self.wanted.specs, strict=True)):
            moves |= {f"outputs[{index}]{kind}": f"outputs[{name}]" for kind in (f".{spec.WhichOneof('kind')}", "")}
        return error.locate(moves)


def read_request(request: ModelInferRequest, catalog: worker_pb2.Ready, limits: Limits) -> Question:
    """Return what a request asks, in native words.

    Raises:
        WhylightError: it asks for nothing that could be tried.
    """
    asked = find(catalog, request.model_name, request.model_version)
    parameters = read_parameters(request.parameters, limits)
    if asked.method is None:
        if not parameters.method:
            raise InvalidInput(
                f"{asked.name!r} is a model; ask {asked.name}.METHOD, or name a method by the parameter 'method'",
                field="model_name",
            )
        asked = Asked(asked.model, find_method(catalog, parameters.method, field="parameters[method]"))
    elif parameters.method not in ("", asked.method.name):
        raise InvalidInput(
            f"the model's name ends in {asked.method.name!r}, and the parameter says {parameters.method[:256]!r}",
            reason="OPTION_INVALID",
            field="parameters[method]",
        )
    assert asked.method is not None
    wanted = read_outputs(request.outputs, limits)
    native = v1.ExplainRequest(
        model=asked.model.name,
        methods=[v1.MethodCall(name=asked.method.name, options=parameters.options, seed=parameters.seed)],
        targets=parameters.targets,
        outputs=wanted.specs,
        top_predictions=parameters.top_predictions,
        priority=v1.PRIORITY_BULK if parameters.priority > 1 else v1.PRIORITY_UNSPECIFIED,
    )
    known = (*PICTURES, TARGET, *sorted(asked.model.companions))
    tensors = read_tensors(request, known, max_elements=limits.message_bytes)
    pictures = _pictures(tensors)
    _add_pictures(native, tensors.pop(pictures), limits)
    own_targets = tensors.pop(TARGET, None)
    if own_targets is not None:
        if parameters.targets:
            raise InvalidInput(
                "targets come as a tensor and as a parameter; send one of them",
                reason="TARGET_INVALID",
                field=own_targets.field,
            )
        _add_targets(native.inputs, own_targets, limits)
    for tensor in tensors.values():
        _add_companion(native.inputs, tensor)
    return Question(native, asked, wanted, parameters, pictures, request.id)


def _pictures(tensors: Mapping[str, InputTensor]) -> str:
    given = [name for name in tensors if name in PICTURES]
    if len(given) != 1:
        raise InvalidInput(
            f"a request has one of the inputs {', '.join(PICTURES)}, not {' and '.join(given) or 'none of them'}",
            reason="TENSOR_INVALID",
            field="inputs",
        )
    tensor = tensors[given[0]]
    if tensor.datatype not in PICTURES[tensor.name]:
        raise _invalid(
            f"{tensor.field}.datatype", f"{tensor.name} is {' or '.join(PICTURES[tensor.name])}, not {tensor.datatype}"
        )
    return given[0]


def _add_pictures(request: v1.ExplainRequest, tensor: InputTensor, limits: Limits) -> None:
    """Add one input for each picture, after a check that there are not more of them than may be."""
    if isinstance(tensor.data, tuple):
        if len(tensor.shape) not in (1, 2) or tensor.shape[1:] not in ((), (1,)):
            raise _invalid(f"{tensor.field}.shape", f"{tensor.name} is [N] or [N, 1], not {list(tensor.shape)}")
        _check_count(len(tensor.data), tensor, limits)
        for file in tensor.data:
            request.inputs.add().image = file
        return
    layout = "[N, height, width, 3]" if tensor.name == IMAGE else "[N, channels, height, width]"
    if len(tensor.shape) not in (3, 4) or (tensor.name == IMAGE and tensor.shape[-1] != 3):
        raise _invalid(f"{tensor.field}.shape", f"{tensor.name} is {layout}, not {list(tensor.shape)}")
    count, shape = (1, tensor.shape) if len(tensor.shape) == 3 else (tensor.shape[0], tensor.shape[1:])
    _check_count(count, tensor, limits)
    data, dtype = tensor.data, v1.DATA_TYPE_UINT8
    if tensor.datatype == "FP32":
        dtype = v1.DATA_TYPE_FLOAT32
    elif tensor.datatype == "FP16":
        dtype = v1.DATA_TYPE_FLOAT16
    elif tensor.datatype == "BF16":  # the upper half of a float32
        data, dtype = (np.frombuffer(data, "<u2").astype("<u4") << 16).tobytes(), v1.DATA_TYPE_FLOAT32
    for part in _parts(data, count):
        native = request.inputs.add().tensor
        native.dtype, native.data = dtype, part
        native.shape.extend(shape)


def _add_targets(items: Sequence[v1.Input], tensor: InputTensor, limits: Limits) -> None:
    if tensor.datatype not in ("INT64", "INT32", BYTES):
        raise _invalid(f"{tensor.field}.datatype", f"{TARGET} is INT64, INT32 or BYTES, not {tensor.datatype}")
    if len(tensor.shape) not in (1, 2) or tensor.shape[0] != len(items) or 0 in tensor.shape:
        raise _invalid(
            f"{tensor.field}.shape",
            f"{TARGET} is [N] or [N, targets] for {len(items)} pictures, not {list(tensor.shape)}",
        )
    each = tensor.shape[1] if len(tensor.shape) == 2 else 1
    if each > limits.targets:
        raise InvalidInput(
            f"{each} targets, more than the {limits.targets} that are allowed",
            reason="TOO_MANY_TARGETS",
            field=f"{tensor.field}.shape",
        )
    if isinstance(tensor.data, tuple):
        try:
            labels = [data.decode() for data in tensor.data]
        except UnicodeError:
            raise InvalidInput("a label is no UTF-8", reason="TARGET_INVALID", field=tensor.field) from None
        targets = [v1.Target(class_label=label) for label in labels]
    else:
        indices = np.frombuffer(tensor.data, "<i4" if tensor.datatype == "INT32" else "<i8")
        if indices.min() < 0 or indices.max() >= 2**31:
            raise InvalidInput("the index of no class", reason="TARGET_INVALID", field=tensor.field)
        targets = [v1.Target(class_index=int(index)) for index in indices]
    for index, item in enumerate(items):
        item.targets.extend(targets[index * each : (index + 1) * each])


def _add_companion(items: Sequence[v1.Input], tensor: InputTensor) -> None:
    if tensor.datatype not in _COMPANION_TYPES or isinstance(tensor.data, tuple):
        raise _invalid(f"{tensor.field}.datatype", f"{tensor.name} is FP32 or INT64, not {tensor.datatype}")
    if not tensor.shape or tensor.shape[0] != len(items):
        raise _invalid(
            f"{tensor.field}.shape", f"the first dimension counts {len(items)} pictures in {list(tensor.shape)}"
        )
    for item, data in zip(items, _parts(tensor.data, len(items)), strict=True):
        companion = item.companions[tensor.name]
        companion.dtype = _COMPANION_TYPES[tensor.datatype]
        companion.shape.extend(tensor.shape[1:])
        companion.data = data


def _parts(data: bytes, count: int) -> list[bytes]:
    size = len(data) // count
    return [data[index * size : (index + 1) * size] for index in range(count)]


def _check_count(count: int, tensor: InputTensor, limits: Limits) -> None:
    if count == 0:
        raise _invalid(f"{tensor.field}.shape", "there is no picture")
    if count > limits.inputs:
        raise InvalidInput(
            f"{count} pictures, more than the {limits.inputs} that are allowed",
            reason="TOO_MANY_INPUTS",
            field=f"{tensor.field}.shape",
        )


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="TENSOR_INVALID", field=field)
