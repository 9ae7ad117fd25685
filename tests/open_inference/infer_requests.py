"""Requests of the protocol as tests write them, and stubs that need no generated code."""

from __future__ import annotations

from typing import Any

import numpy as np

from whylight.open_inference import messages as oip

DATATYPES = {"uint8": "UINT8", "int32": "INT32", "int64": "INT64", "float16": "FP16", "float32": "FP32"}


def pixels(count: int = 1, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 48, 64, 3), dtype=np.uint8)


def set_parameter(message: Any, value: bool | int | float | str) -> None:
    kind = {bool: "bool_param", int: "int64_param", float: "double_param", str: "string_param"}[type(value)]
    setattr(message, kind, value)


def infer(
    model: str = "one.grad-cam",
    *,
    parameters: dict[str, Any] | None = None,
    outputs: dict[str, dict[str, Any]] | None = None,
    id: str = "",
    **tensors: np.ndarray | list[bytes],
) -> oip.ModelInferRequest:
    """A request with raw contents; one picture where there are no tensors."""
    request = oip.ModelInferRequest(model_name=model, id=id)
    for name, tensor in (tensors or {"IMAGE": pixels()}).items():
        add_tensor(request, name, tensor)
    for name, value in (parameters or {}).items():
        set_parameter(request.parameters[name], value)
    for name, own in (outputs or {}).items():
        wanted = request.outputs.add(name=name)
        for key, value in own.items():
            set_parameter(wanted.parameters[key], value)
    return request


def add_tensor(request: oip.ModelInferRequest, name: str, tensor: np.ndarray | list[bytes]) -> None:
    if isinstance(tensor, list):
        request.inputs.add(name=name, datatype="BYTES", shape=[len(tensor)])
        request.raw_input_contents.append(b"".join(len(each).to_bytes(4, "little") + each for each in tensor))
    else:
        request.inputs.add(name=name, datatype=DATATYPES[tensor.dtype.name], shape=tensor.shape)
        request.raw_input_contents.append(tensor.tobytes())


def array(response: oip.ModelInferResponse, name: str) -> np.ndarray:
    """An output tensor, decoded as the protocol says."""
    index, output = next((i, one) for i, one in enumerate(response.outputs) if one.name == name)
    data = response.raw_output_contents[index]
    if output.datatype != "BYTES":
        dtype = next(dtype for dtype, name in DATATYPES.items() if name == output.datatype)
        return np.frombuffer(data, dtype).reshape(output.shape)
    found = []
    while data:
        length = int.from_bytes(data[:4], "little")
        found.append(data[4 : 4 + length])
        data = data[4 + length :]
    made = np.empty(len(found), object)
    made[:] = found
    return made.reshape(output.shape)


class Stub:
    """The service's calls on a channel, of grpc or of grpc.aio, by the descriptor alone."""

    def __init__(self, channel: Any) -> None:
        for method in oip.POOL.FindServiceByName(oip.SERVICE).methods:
            make = channel.stream_stream if method.client_streaming else channel.unary_unary
            call = make(
                f"/{oip.SERVICE}/{method.name}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=getattr(oip, method.output_type.name).FromString,
            )
            setattr(self, method.name, call)
