"""Targets as messages and as dataclasses; checks form only: which classes and layers exist is the model's knowledge."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from whylight.errors import InvalidInput
from whylight.target import ClassIndex, ClassLabel, Latent, Neuron, Objective, OutputIndex, Rank, Region, Target
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import NAME_LENGTH, decimal, integer, path

_INDICES = 8
"""Indices of one place in a tensor at most."""


def target_from_proto(message: pb.Target, field: str = "target") -> Target:
    """Return a Target message as a target.

    Raises:
        InvalidInput: nothing is set, an index is negative, a name is empty or longer than any, or a region is not one
            (TARGET_INVALID).
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
    return _region(message.region, field)


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
        case Objective():
            raise _invalid("", "a function cannot be sent; explain an Objective in process")


def _region(region: pb.Region, field: str) -> Region:
    class_index = _index(region.class_index, path(field, "region.class_index"))
    edges = (region.left, region.top, region.right, region.bottom)
    if not any(edges):
        return Region(class_index)
    try:
        return Region(class_index, *map(decimal, edges))
    except InvalidInput as error:
        raise (error.within(field) if field else error) from None


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
