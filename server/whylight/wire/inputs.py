"""Inputs as messages and as bytes and arrays; checks that they hang together, decodes no picture."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy.typing as npt

from whylight.errors import InvalidInput
from whylight.limits import COMPANION_ELEMENTS, COMPANIONS
from whylight.target import Target
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import NAME_LENGTH, path
from whylight.wire.targets import target_to_proto
from whylight.wire.tensors import COMPANION_TYPES, array_to_tensor, tensor_to_array


def input_from_proto(
    message: pb.Input, field: str = "input", *, max_elements: int | None = None
) -> bytes | npt.NDArray[Any]:
    """Return what an Input holds: the bytes of a picture file, or an array as `tensor_to_array` gives it.

    Raises:
        InvalidInput: neither is set (REQUEST_INVALID), the picture is empty (IMAGE_UNREADABLE), or the tensor is wrong.
    """
    kind = message.WhichOneof("data")
    if kind is None:
        raise InvalidInput("the input holds neither an image nor a tensor", reason="REQUEST_INVALID", field=field)
    if kind == "tensor":
        return tensor_to_array(message.tensor, path(field, "tensor"), max_elements=max_elements)
    image = message.image  # each look at it makes a copy
    if not image:
        raise InvalidInput("the image has no bytes", reason="IMAGE_UNREADABLE", field=path(field, "image"))
    return image


def companions_from_proto(message: pb.Input, field: str = "input") -> dict[str, npt.NDArray[Any]]:
    """Return the companions of an Input, by name.

    Raises:
        InvalidInput: there are too many (TOO_MANY_COMPANIONS), a name is empty or too long (REQUEST_INVALID), or a
            tensor is wrong or too large, as `tensor_to_array` says.
    """
    if len(message.companions) > COMPANIONS:
        raise InvalidInput(
            f"{len(message.companions)} companions, more than the {COMPANIONS} that are allowed",
            reason="TOO_MANY_COMPANIONS",
            field=path(field, "companions"),
        )
    companions = {}
    for name, tensor in sorted(message.companions.items()):
        if not 0 < len(name) <= NAME_LENGTH:
            raise InvalidInput(
                f"the name of a companion has 1 to {NAME_LENGTH} characters, not {len(name)}",
                field=path(field, "companions"),
            )
        place = path(field, f"companions[{name}]")
        companions[name] = tensor_to_array(tensor, place, max_elements=COMPANION_ELEMENTS, types=COMPANION_TYPES)
    return companions


def input_to_proto(
    data: bytes | npt.NDArray[Any],
    targets: Iterable[Target] = (),
    companions: Mapping[str, npt.NDArray[Any]] | None = None,
) -> pb.Input:
    """Return the bytes of a picture file, or an array, as an Input with `targets` of its own and its companions.

    Raises:
        InvalidInput: an array has a type that cannot be sent (TENSOR_INVALID).
    """
    own = [target_to_proto(target) for target in targets]
    beside = {
        name: array_to_tensor(array, f"companions[{name}]", types=COMPANION_TYPES)
        for name, array in (companions or {}).items()
    }
    if isinstance(data, bytes):
        return pb.Input(image=data, targets=own, companions=beside)
    return pb.Input(tensor=array_to_tensor(data), targets=own, companions=beside)
