"""Targets as messages and as dataclasses; checks form only: which classes and layers exist is the model's knowledge."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from whylight.errors import InvalidInput
from whylight.frozen_array import FrozenArray
from whylight.target import (
    EMBEDDING_ELEMENTS,
    MASK_ELEMENTS,
    ClassIndex,
    ClassLabel,
    Contrast,
    Detection,
    Latent,
    Neuron,
    Objective,
    OutputIndex,
    Rank,
    Region,
    Similarity,
    Target,
)
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import NAME_LENGTH, decimal, integer, path
from whylight.wire.tensors import array_to_tensor, tensor_to_array

_INDICES = 8
"""Indices of one place in a tensor at most."""

_COMPARABLE = ("class_index", "class_label", "rank", "output")
_FLOATS = (pb.DATA_TYPE_FLOAT32, pb.DATA_TYPE_FLOAT16)


def target_from_proto(message: pb.Target, field: str = "target") -> Target:
    """Return a Target message as a target.

    Raises:
        InvalidInput: nothing is set, an index is negative, a name is empty or longer than any, a region is not one, a
            contrast is of other things than elements of the output (TARGET_INVALID); a mask, a reference or an
            embedding is no tensor, too large, or not of its type (TENSOR_INVALID, TENSOR_TOO_LARGE).
    """
    kind = message.WhichOneof("kind")
    if kind is None:
        raise _invalid(field, "the target names nothing; set one of class_index, class_label, rank, output, …")
    here = path(field, kind)
    if kind == "class_index":
        return ClassIndex(_index(message.class_index, here))
    if kind == "class_label":
        return ClassLabel(_name(message.class_label, here))
    if kind == "rank":
        return Rank(_index(message.rank, here))
    if kind == "latent":
        return Latent(_index(message.latent, here))
    if kind == "output":
        return OutputIndex(_indices(message.output.indices, path(here, "indices")))
    if kind == "neuron":
        neuron = message.neuron
        return Neuron(
            _name(neuron.layer, path(here, "layer")),
            _index(neuron.channel, path(here, "channel")),
            _indices(neuron.position, path(here, "position")),
        )
    if kind == "contrast":
        return _within(field, lambda: _contrast(message.contrast, here))
    if kind == "detection":
        return _within(field, lambda: _detection(message.detection, here))
    if kind == "similarity":
        return _within(field, lambda: _similarity(message.similarity, here))
    return _within(field, lambda: _region(message.region, here))


def targets_from_proto(messages: Iterable[pb.Target], field: str = "targets") -> tuple[Target, ...]:
    """Return several Target messages as targets; the path of each is `field` and its index."""
    return tuple(target_from_proto(message, f"{field}[{index}]") for index, message in enumerate(messages))


def target_to_proto(target: Target) -> pb.Target:
    """Return a target as a message.

    Raises:
        InvalidInput: an index does not fit 32 bits (TARGET_INVALID).
    """
    match target:
        case ClassIndex(index):
            return pb.Target(class_index=_int32(index, "class_index"))
        case ClassLabel(label):
            return pb.Target(class_label=label)
        case Rank(rank):
            return pb.Target(rank=_int32(rank, "rank"))
        case Latent(index):
            return pb.Target(latent=_int32(index, "latent"))
        case OutputIndex(indices):
            return pb.Target(output=pb.OutputIndex(indices=[_int32(index, "output.indices") for index in indices]))
        case Neuron(layer, channel, position):
            return pb.Target(
                neuron=pb.Neuron(
                    layer=layer,
                    channel=_int32(channel, "neuron.channel"),
                    position=[_int32(index, "neuron.position") for index in position],
                )
            )
        case Region(class_index, mask=FrozenArray() as mask):
            region = pb.Region(class_index=_int32(class_index, "region.class_index"))
            region.mask.CopyFrom(array_to_tensor(mask.numpy(), "region.mask"))
            return pb.Target(region=region)
        case Region(class_index, left, top, right, bottom):
            return pb.Target(
                region=pb.Region(
                    class_index=_int32(class_index, "region.class_index"),
                    left=left,
                    top=top,
                    right=right,
                    bottom=bottom,
                )
            )
        case Contrast(positive, negative):
            return pb.Target(
                contrast=pb.Contrast(positive=target_to_proto(positive), negative=target_to_proto(negative))
            )
        case Detection(class_index, left, top, right, bottom):
            detection = pb.Detection(left=left, top=top, right=right, bottom=bottom)
            if class_index is not None:
                detection.class_index = _int32(class_index, "detection.class_index")
            return pb.Target(detection=detection)
        case Similarity():
            return pb.Target(similarity=_similarity_to_proto(target))
        case Objective():
            raise _invalid("", "a function cannot be sent; explain an Objective in process")


def _within(field: str, read: Callable[[], Target]) -> Target:
    """Read what names its own fields from the kind on, at `field`: the paths of its errors begin there."""
    try:
        return read()
    except InvalidInput as error:
        inside = all(violation.field.startswith(field) for violation in error.violations)
        raise (error.within(field) if field and not inside else error) from None


def _region(region: pb.Region, here: str) -> Region:
    class_index = _index(region.class_index, path(here, "class_index"))
    edges = (region.left, region.top, region.right, region.bottom)
    left, top, right, bottom = map(decimal, edges) if any(edges) else (0.0, 0.0, 1.0, 1.0)
    if not region.HasField("mask"):
        return Region(class_index, left, top, right, bottom)
    mask = tensor_to_array(region.mask, path(here, "mask"), max_elements=MASK_ELEMENTS, types=(pb.DATA_TYPE_UINT8,))
    return Region(class_index, left, top, right, bottom, FrozenArray.of(mask))


def _contrast(contrast: pb.Contrast, here: str) -> Contrast:
    for name in ("positive", "negative"):
        # Before it is read: contrasts of contrasts could be as deep as a message can.
        kind = getattr(contrast, name).WhichOneof("kind")
        if kind not in _COMPARABLE:
            raise _invalid(path(here, name), f"a contrast is of {', '.join(_COMPARABLE)}, not of {kind or 'nothing'}")
    return Contrast(
        target_from_proto(contrast.positive, path(here, "positive")),  # type: ignore[arg-type]  # of a kind named above
        target_from_proto(contrast.negative, path(here, "negative")),  # type: ignore[arg-type]
    )


def _detection(detection: pb.Detection, here: str) -> Detection:
    chosen = detection.HasField("class_index")
    class_index = _index(detection.class_index, path(here, "class_index")) if chosen else None
    edges = (detection.left, detection.top, detection.right, detection.bottom)
    return Detection(class_index, *map(decimal, edges))


def _similarity(similarity: pb.Similarity, here: str) -> Similarity:
    layer = _name(similarity.layer, path(here, "layer")) if similarity.layer else ""
    kind = similarity.WhichOneof("reference")
    if kind == "image":
        image = similarity.image
        if not image:
            raise InvalidInput("the image has no bytes", reason="IMAGE_UNREADABLE", field=path(here, "image"))
        return Similarity(image=image, layer=layer)
    if kind == "tensor":
        # How many elements there may be is for the model's input to say, when it is decoded.
        return Similarity(image=FrozenArray.of(tensor_to_array(similarity.tensor, path(here, "tensor"))), layer=layer)
    if kind == "embedding":
        numbers = tensor_to_array(
            similarity.embedding, path(here, "embedding"), max_elements=EMBEDDING_ELEMENTS, types=_FLOATS
        )
        return Similarity(embedding=FrozenArray.of(numbers), layer=layer)
    raise _invalid(here, "there is no reference; set image, tensor or embedding")


def _similarity_to_proto(target: Similarity) -> pb.Similarity:
    message = pb.Similarity(layer=target.layer)
    if isinstance(target.image, bytes):
        message.image = target.image
    elif target.image is not None:
        message.tensor.CopyFrom(array_to_tensor(_single(target.image), "similarity.tensor"))
    elif target.embedding is not None:
        message.embedding.CopyFrom(array_to_tensor(_single(target.embedding), "similarity.embedding"))
    return message


def _single(array: FrozenArray) -> npt.NDArray[Any]:
    """Return the numbers in a type that can be sent: float32 for float64."""
    numbers = array.numpy()
    return numbers.astype(np.float32) if numbers.dtype == np.float64 else numbers


def _index(value: int, field: str) -> int:
    if value < 0:
        raise _invalid(field, f"{value} is negative")
    return value


def _indices(values: Sequence[int], field: str) -> tuple[int, ...]:
    if len(values) > _INDICES:
        raise _invalid(field, f"{len(values)} indices, more than {_INDICES}")
    return tuple(_index(value, f"{field}[{place}]") for place, value in enumerate(values))


def _name(value: str, field: str) -> str:
    if not value:
        raise _invalid(field, "the name is empty")
    if len(value) > NAME_LENGTH:
        raise _invalid(field, f"a name of {len(value)} characters; {NAME_LENGTH} are allowed")
    return value


def _int32(value: int, field: str) -> int:
    return integer(value, 32, signed=True, reason="TARGET_INVALID", field=field)


def _invalid(field: str, message: str) -> InvalidInput:
    return InvalidInput(message, reason="TARGET_INVALID", field=field)
