"""Artifacts as messages and as dataclasses; knows neither how they were made nor what answer they belong to."""

from __future__ import annotations

from whylight.artifact import Artifact, Box, Boxes, Map, Picture, Point, Points, Table
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.options import list_to_values, values_to_list
from whylight.wire.outputs import CANVASES, canvas_to_proto
from whylight.wire.reading import reading, unreadable
from whylight.wire.tensors import array_to_tensor, tensor_to_array


def artifact_to_proto(artifact: Artifact) -> pb.Artifact:
    """Return an artifact as a message."""
    match artifact:
        case Map():
            return pb.Artifact(name=artifact.name, tensor=array_to_tensor(artifact.array))
        case Picture():
            return pb.Artifact(name=artifact.name, picture=picture_to_proto(artifact))
        case Boxes():
            boxes = [
                pb.Box(left=box.left, top=box.top, right=box.right, bottom=box.bottom, score=box.score)
                for box in artifact.boxes
            ]
            return pb.Artifact(name=artifact.name, boxes=pb.Boxes(boxes=boxes, canvas=canvas_to_proto(artifact.canvas)))
        case Points():
            points = [pb.Point(x=point.x, y=point.y, label=point.label) for point in artifact.points]
            return pb.Artifact(name=artifact.name, points=pb.Points(points=points))
        case Table():
            rows = [values_to_list(row, "table.rows") for row in artifact.rows]
            return pb.Artifact(name=artifact.name, table=pb.Table(columns=artifact.columns, rows=rows))


def artifact_from_proto(message: pb.Artifact) -> Artifact:
    """Return a message as an artifact.

    Raises:
        InternalError: it is of a kind that this version does not know, or is damaged (RESPONSE_INVALID).
    """
    kind = message.WhichOneof("content")
    if kind == "tensor":
        with reading(f"the artifact {message.name!r}"):
            return Map(message.name, tensor_to_array(message.tensor))
    if kind == "picture":
        return picture_from_proto(message.picture, message.name)
    if kind == "boxes":
        if message.boxes.canvas not in CANVASES:
            raise unreadable(f"the boxes {message.name!r} count in an unknown frame")
        boxes = (Box(box.left, box.top, box.right, box.bottom, box.score) for box in message.boxes.boxes)
        return Boxes(message.name, tuple(boxes), CANVASES[message.boxes.canvas])
    if kind == "points":
        return Points(message.name, tuple(Point(point.x, point.y, point.label) for point in message.points.points))
    if kind == "table":
        with reading(f"the table {message.name!r}"):
            rows = tuple(tuple(list_to_values(row, "table.rows")) for row in message.table.rows)
        return Table(message.name, tuple(message.table.columns), rows)
    raise unreadable(f"the artifact {message.name!r} is of a kind that this version cannot read ({kind})")


def picture_to_proto(picture: Picture) -> pb.Picture:
    """Return an encoded picture as a message, without its name."""
    size = size_to_proto((picture.width, picture.height))
    return pb.Picture(media_type=picture.media_type, data=picture.data, size=size)


def picture_from_proto(message: pb.Picture, name: str) -> Picture:
    """Return a message as an encoded picture of that name."""
    return Picture(name, message.data, message.media_type, message.size.width, message.size.height)


def size_to_proto(size: tuple[int, int]) -> pb.Size:
    """Return (width, height) as a message."""
    return pb.Size(width=size[0], height=size[1])
