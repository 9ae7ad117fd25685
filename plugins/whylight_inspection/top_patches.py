"""The patches of a data set that excite a channel most; knows no class and no label beyond the folders' names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field

import whylight
from whylight_inspection.channel_index import BLOCK, Block, ChannelIndex, answers, inputs_of
from whylight_inspection.contact_sheet import contact_sheet
from whylight_inspection.receptive_field import receptive_fields

if TYPE_CHECKING:
    import torch

_GREY = 128


class TopPatchesOptions(whylight.PlainOptions):
    """Which channel of which layer, and in what pictures it is looked for."""

    data_set: str = Field(min_length=1, max_length=128, description="Name of a data set that the operator has set up.")
    layer: whylight.Layer = whylight.LAST_SPATIAL
    channel: int = Field(0, ge=0, description="Channel of maps, or element of a vector.")
    count: int = Field(9, ge=1, le=64, description="How many patches are shown, one of each picture at most.")
    pictures: Literal["none", "deconvnet", "guided"] = Field(
        "none", description="Whether each patch is shown a second time, as what of it excites the channel."
    )


class TopPatches(whylight.Inspection):
    """The patches of a data set that excite a channel most, each cut to what the channel's unit can see of the picture.

    Of each picture the position of `max A_k`, and of all pictures the `count` highest. A unit's receptive field follows
    from the network's structure, whatever its layers are, and is clipped to the input. Artifacts: "patches", all of
    them, the strongest first; "patch-0", "patch-1" … alone; "table": picture, label, activation, the unit's position
    (down, across), the patch in pixels of the input; with `pictures`, "excitations": the deconvnet's or guided
    backpropagation's picture of each.

    Its checks: how many pictures were "seen", and how many files were "unreadable".

    Costs a pass for each picture of the data set at the first call; where the server has a cache folder, later calls of
    the same layer find it done.

    Use it to see what a channel has learned to find.

    Avoid it as the only ground for naming a channel: what it answers to in the middle of its range may be
    something else.
    """

    name = "top-patches"
    reference = "Zeiler and Fergus, Visualizing and Understanding Convolutional Networks, ECCV 2014, figure 2"
    needs = frozenset({whylight.Need.GRADIENTS})
    takes = ()
    looks_at_targets = False
    Options = TopPatchesOptions

    def inspect(
        self, subject: whylight.Subject, task: whylight.InspectionTask, options: TopPatchesOptions
    ) -> Iterator[whylight.Progress | whylight.Inspected]:
        """Look for the patches.

        Raises:
            NotFound: there is no such data set (DATA_SET_NOT_FOUND) or layer.
            InvalidInput: the layer has no such channel.
            Unsupported: the layer gives neither maps nor a vector; the data set cannot be read.
        """
        layer = subject.resolve_layer(options.layer)
        if options.pictures != "none" and whylight.Need.RELU not in subject.model.capabilities:
            raise whylight.Unsupported(
                "the model runs no ReLU, which these pictures are about", field="options.pictures"
            )
        data_set = task.data_sets.open(options.data_set)
        _check_channel(subject, layer, options.channel)
        best = _Best(options.count)
        done = 0
        for found in ChannelIndex(subject, layer, data_set, task.data_sets.cache).blocks(task.cancel):
            if isinstance(found, Block):
                best.take(found, options.channel)
                done = found.first + len(found.readable)
                yield whylight.Progress(done, len(data_set))
            elif found < BLOCK and done + found < len(data_set):
                yield whylight.Progress(done + found, len(data_set))
        if not best.patches:
            raise whylight.Unsupported(
                f"no file of the data set {options.data_set!r} is a readable picture", field="options.data_set"
            )
        pictures = [_read(data_set, patch.picture, subject) for patch in best.patches]
        units, boxes, excitations = _seen(subject, layer, best.patches, pictures, options, task)
        crops = [
            pixels[top:bottom, left:right] for pixels, (left, top, right, bottom) in zip(pictures, boxes, strict=True)
        ]
        rows: list[tuple[str | float, ...]] = []
        for rank, (patch, box) in enumerate(zip(best.patches, boxes, strict=True)):
            file = data_set.files[patch.picture]
            position = units[rank].position or (0, 0)
            rows.append((rank, file.path, file.label, patch.activation, *position, *box))
        columns = ("rank", "picture", "label", "activation", "down", "across", "left", "top", "right", "bottom")
        artifacts: list[whylight.Artifact] = [
            whylight.Picture.of("patches", _sheet(crops)),
            *(whylight.Picture.of(f"patch-{rank}", _drawn(crop)) for rank, crop in enumerate(crops)),
            whylight.Table("table", columns, tuple(rows)),
        ]
        if excitations:
            cut = [
                one[top:bottom, left:right] for one, (left, top, right, bottom) in zip(excitations, boxes, strict=True)
            ]
            artifacts.insert(1, whylight.Picture.of("excitations", _sheet(cut)))
        seen = {"seen": float(best.seen), "unreadable": float(best.unreadable)}
        yield whylight.Inspected(tuple(artifacts), seen)


@dataclass(frozen=True)
class _Patch:
    picture: int
    activation: float
    place: int


class _Best:
    """The strongest pictures so far, the strongest first; of equal ones, that which comes first in the data set."""

    def __init__(self, count: int) -> None:
        self.patches: list[_Patch] = []
        self.seen = 0
        self.unreadable = 0
        self._count = count

    def take(self, block: Block, channel: int) -> None:
        rows = np.flatnonzero(block.readable)
        self.seen += len(rows)
        self.unreadable += len(block.readable) - len(rows)
        found = [
            _Patch(block.first + int(row), float(block.maxima[row, channel]), int(block.places[row, channel]))
            for row in rows
        ]
        self.patches = sorted([*self.patches, *found], key=lambda patch: -patch.activation)[: self._count]


def _check_channel(subject: whylight.Subject, layer: str, channel: int) -> None:
    import torch

    model = subject.model
    blank = torch.zeros(1, model.input_channels, *model.input_size, dtype=model.dtype, device=subject.device)
    channels = answers(subject, layer, blank).shape[1]
    if channel >= channels:
        raise whylight.InvalidInput(
            f"layer {layer!r} has no channel {channel}; there are {channels}", field="options.channel"
        )


def _read(data_set: whylight.DataSet, index: int, subject: whylight.Subject) -> npt.NDArray[np.uint8]:
    pixels = data_set.fitted(index, subject.model.transform)
    if pixels is None:
        raise whylight.Unsupported(
            f"{data_set.files[index].path} of the data set {data_set.name!r} can no longer be read",
            field="options.data_set",
        )
    return pixels


def _seen(
    subject: whylight.Subject,
    layer: str,
    patches: list[_Patch],
    pictures: list[npt.NDArray[np.uint8]],
    options: TopPatchesOptions,
    task: whylight.InspectionTask,
) -> tuple[list[whylight.Neuron], list[tuple[int, int, int, int]], list[npt.NDArray[np.uint8]]]:
    """Return each patch's unit, what the unit sees, what excites it if that is wanted; equal sizes run together."""
    units: dict[int, whylight.Neuron] = {}
    boxes: dict[int, tuple[int, int, int, int]] = {}
    excitations: dict[int, npt.NDArray[np.uint8]] = {}
    is_vector = len(subject.model.layer(layer).output_shape) == 1
    for shape in dict.fromkeys(pixels.shape for pixels in pictures):
        alike = [rank for rank, pixels in enumerate(pictures) if pixels.shape == shape]
        inputs = inputs_of(subject, [pictures[rank] for rank in alike])
        width = answers(subject, layer, inputs[:1]).shape[3]
        for rank in alike:
            place = () if is_vector else divmod(patches[rank].place, width)
            units[rank] = whylight.Neuron(layer, options.channel, place)
        some = [units[rank] for rank in alike]
        boxes.update(zip(alike, receptive_fields(subject, inputs[:1], some, task.cancel), strict=True))
        if options.pictures != "none":
            excitations.update(zip(alike, _excitations(subject, inputs, some, options.pictures, task), strict=True))
    ranks = range(len(patches))
    return (
        [units[rank] for rank in ranks],
        [boxes[rank] for rank in ranks],
        [excitations[r] for r in sorted(excitations)],
    )


def _excitations(
    subject: whylight.Subject,
    inputs: torch.Tensor,
    units: list[whylight.Neuron],
    kind: str,
    task: whylight.InspectionTask,
) -> list[npt.NDArray[np.uint8]]:
    """Return what goes back from the unit of each input under a rule, as pictures: grey is 0, each in its own range."""
    rule = whylight.DeconvnetRelu() if kind == "deconvnet" else whylight.GuidedRelu()
    count = len(units)
    batch = whylight.Batch(inputs, tuple(units), tuple(range(count)), task.cancel, (task.seed,) * count)
    gradients = subject.input_gradients(batch, rule=rule).float()
    largest = gradients.abs().amax((1, 2, 3), keepdim=True).clamp_min(1e-30)
    pixels = ((gradients / largest + 1) * 127.5).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return list(pixels[:, :, :, ::-1] if subject.model.transform.channel_order == "bgr" else pixels)


def _drawn(crop: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return crop[:, :, 0] if crop.shape[2] == 1 else np.ascontiguousarray(crop)


def _sheet(crops: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.uint8]:
    """Return the crops in a grid; smaller ones, at the edge of a picture, lie in the middle of grey."""
    import torch

    height, width = (max(crop.shape[axis] for crop in crops) for axis in (0, 1))
    cells = np.full((len(crops), height, width, 3), _GREY, np.uint8)
    for cell, crop in zip(cells, crops, strict=True):
        top, left = (height - crop.shape[0]) // 2, (width - crop.shape[1]) // 2
        cell[top : top + crop.shape[0], left : left + crop.shape[1]] = crop
    sheet: npt.NDArray[np.uint8] = contact_sheet(torch.from_numpy(cells), least_side=56).numpy()
    return sheet
