"""What every channel of a layer answers to every picture of a data set at most, and where; keeps it on disk in blocks.

Made once for a model, a layer and a data set, whose digests name its folder. A block is written when it is whole, under
another name first, so that whoever stops or dies in between leaves only whole blocks, and the next one goes on there.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

import whylight

if TYPE_CHECKING:
    import torch

BLOCK = 64
"""Pictures in a block."""

_FORMAT = "1"
_ROWS = 16


@dataclass(frozen=True)
class Block:
    """Pictures `first` to `first + n` of a data set: their maxima `[n, C]` and where they are, flat, `[n, C]`.

    `readable` `[n]` is False for files that are no pictures; their maxima mean nothing.
    """

    first: int
    maxima: npt.NDArray[np.float32]
    places: npt.NDArray[np.int32]
    readable: npt.NDArray[np.bool_]


class ChannelIndex:
    """The index of one layer over one data set. `layer` is its own name."""

    def __init__(self, subject: whylight.Subject, layer: str, data_set: whylight.DataSet, cache: Path | None) -> None:
        self._subject = subject
        self._layer = layer
        self._data_set = data_set
        model = subject.model
        key = (_FORMAT, BLOCK, model.digest, model.source, model.transform, model.input_size, model.precision, layer)
        name = hashlib.sha256(repr((key, data_set.digest)).encode()).hexdigest()[:32]
        self._folder = None if cache is None else cache / "channel-index" / name

    def blocks(self, cancel: Any) -> Iterator[Block | int]:
        """Yield the blocks in order, from disk or made now; in between, how many pictures of a block were looked at.

        Raises:
            Unsupported: the layer gives neither maps nor a vector for each input.
        """
        for first in range(0, len(self._data_set), BLOCK):
            cancel.check()
            kept = self._load(first)
            if kept is None:
                kept = yield from self._make(first, cancel)
                self._save(kept)
            yield kept

    def _make(self, first: int, cancel: Any) -> Generator[int, None, Block]:
        indices = range(first, min(first + BLOCK, len(self._data_set)))
        found: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]] | None] = []
        rows = max(1, min(_ROWS, self._subject.model.max_rows()))
        for start in range(0, len(indices), rows):
            cancel.check()
            found += self._look(
                [self._data_set.fitted(i, self._subject.model.transform) for i in indices[start:][:rows]]
            )
            yield min(start + rows, len(indices))
        readable = np.array([one is not None for one in found])
        channels = max((len(one[0]) for one in found if one is not None), default=0)
        maxima, places = np.zeros((len(found), channels), np.float32), np.zeros((len(found), channels), np.int32)
        for row, one in enumerate(found):
            if one is not None:
                maxima[row], places[row] = one
        return Block(first, maxima, places, readable)

    def _look(
        self, pictures: list[npt.NDArray[np.uint8] | None]
    ) -> list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]] | None]:
        """Return maxima and places `[C]` of each picture, None for what is none; those of one size run together."""
        made: list[tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]] | None] = [None] * len(pictures)
        for shape in dict.fromkeys(picture.shape for picture in pictures if picture is not None):
            alike = [row for row, picture in enumerate(pictures) if picture is not None and picture.shape == shape]
            maps = answers(self._subject, self._layer, inputs_of(self._subject, [pictures[row] for row in alike]))
            maxima, places = maps.flatten(2).max(2)
            values, where = maxima.float().cpu().numpy(), places.int().cpu().numpy()
            for number, row in enumerate(alike):
                made[row] = values[number], where[number]
        return made

    def _load(self, first: int) -> Block | None:
        path = self._path(first)
        if path is None or not path.exists():
            return None
        with np.load(path, allow_pickle=False) as kept:
            return Block(first, kept["maxima"], kept["places"], kept["readable"])

    def _save(self, block: Block) -> None:
        path = self._path(block.first)
        if path is None:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, maxima=block.maxima, places=block.places, readable=block.readable)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _path(self, first: int) -> Path | None:
        return None if self._folder is None else self._folder / f"{first:09d}.npz"


def inputs_of(subject: whylight.Subject, pictures: list[Any]) -> torch.Tensor:
    """Return pictures uint8 `[H, W, channels]` of one size as the model's inputs `[N, C, H, W]`."""
    import torch

    model = subject.model
    return model.transform.normalise(torch.from_numpy(np.stack(pictures)), dtype=model.dtype, device=subject.device)


def answers(subject: whylight.Subject, layer: str, inputs: torch.Tensor) -> torch.Tensor:
    """Return what a layer gives, `[N, C, h, w]`; `[N, C, 1, 1]` of a layer without positions.

    Raises:
        Unsupported: it is neither maps nor a vector, such as the tokens of a transformer.
    """
    import torch

    with torch.no_grad():
        found = subject.observe(inputs, (layer,), output=False).layers[layer]
    layout = subject.model.layout(layer)
    if found.dim() == 2:
        return found[:, :, None, None]
    if found.dim() != 4 or (layout is not None and layout.channel_axis != 0):
        raise whylight.Unsupported(
            f"layer {layer!r} gives {list(found.shape[1:])}, neither maps [channels, height, width] nor a vector",
            field="options.layer",
        )
    return found
