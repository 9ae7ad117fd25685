"""Puts the inputs of a batch side by side and sends them to the device, when they are wanted or before; runs no model.

Before: by the thread that decoded the last of them, while the device computes the batch before. What is computed is
the same, bit for bit, for nothing but copies is made here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from whylight.decode import DecodedInput

if TYPE_CHECKING:
    from whylight.models import Model


@dataclass(frozen=True)
class Gathered:
    """Inputs of one shape, side by side on a device.

    `pixels`, uint8 `[P, H, W, channels]`, are those of the rows `pictures`, still to be normalised; `values`,
    `[A, C, H, W]`, are those of the rows `arrays`. Companions have all rows, `[P + A, ...]`.
    """

    pictures: tuple[int, ...]
    arrays: tuple[int, ...]
    pixels: Tensor | None
    values: Tensor | None
    companions: Mapping[str, Tensor]

    def tensors(self) -> list[Tensor]:
        """Return every tensor that is held."""
        return [one for one in (self.pixels, self.values, *self.companions.values()) if one is not None]

    def only(self, rows: Sequence[int]) -> Gathered:
        """Return some of the rows, as the rows 0, 1, 2, ..."""
        if list(rows) == list(range(len(self.pictures) + len(self.arrays))):
            return self
        place = {row: n for n, row in enumerate(rows)}
        return Gathered(
            pictures=tuple(place[row] for row in self.pictures if row in place),
            arrays=tuple(place[row] for row in self.arrays if row in place),
            pixels=_rows(self.pixels, [n for n, row in enumerate(self.pictures) if row in place]),
            values=_rows(self.values, [n for n, row in enumerate(self.arrays) if row in place]),
            companions={name: torch.stack([values[row] for row in rows]) for name, values in self.companions.items()},
        )


def gather(model: Model, inputs: Sequence[DecodedInput]) -> Gathered:
    """Put inputs of one shape side by side on the model's device."""
    pictures = tuple(n for n, item in enumerate(inputs) if item.is_picture)
    arrays = tuple(n for n, item in enumerate(inputs) if not item.is_picture)
    return Gathered(
        pictures,
        arrays,
        # Pictures travel as bytes: a quarter of what floats take.
        gathered([inputs[n].values for n in pictures], model.device) if pictures else None,
        gathered([inputs[n].values for n in arrays], model.device) if arrays else None,
        {
            name: gathered([item.companions[name] for item in inputs], model.device)
            for name in (model.companions if inputs else ())
        },
    )


def gathered(arrays: Sequence[npt.NDArray[Any]], device: torch.device) -> Tensor:
    """Return arrays of one shape and type on a device, one behind the other.

    A GPU fetches them from pinned memory while the thread goes on; torch keeps that memory until it has done so.
    """
    if device.type != "cuda":
        return torch.from_numpy(np.stack(arrays)).to(device)
    dtype = torch.from_numpy(np.empty(0, arrays[0].dtype)).dtype
    together = torch.empty((len(arrays), *arrays[0].shape), dtype=dtype, pin_memory=True)
    np.stack(arrays, out=together.numpy())
    return together.to(device, non_blocking=True)


class Passage:
    """The way to a device, on which nothing has to be waited for: that of the host itself."""

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send what is sent within on this way."""
        yield

    def sent(self) -> Any:
        """Return what `receive` knows by when everything that was sent by now has arrived."""
        return None

    def receive(self, sent: Any, tensors: Sequence[Tensor]) -> None:
        """Have this thread's work on the device from here on wait for `tensors`, which it may then use."""


class CudaPassage(Passage):
    """A stream beside those that compute on a GPU."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._device = device

    @contextmanager
    def sending(self) -> Iterator[None]:
        """Send what is sent within on the stream."""
        with torch.cuda.stream(self._stream):
            yield

    def sent(self) -> torch.cuda.Event:
        """Return an event behind everything that was sent by now."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        return event

    def receive(self, sent: torch.cuda.Event, tensors: Sequence[Tensor]) -> None:
        """Have this thread's current stream wait on the device, not the thread itself."""
        computing = torch.cuda.current_stream(self._device)
        computing.wait_event(sent)
        for tensor in tensors:
            tensor.record_stream(computing)  # or the memory were the other stream's again while this one reads it


def passage_to(device: torch.device) -> Passage:
    """Return a way to a device of its own, on which nothing is held up by what computes."""
    return CudaPassage(device) if device.type == "cuda" else Passage()


class Ahead:
    """Inputs of a batch that are on the device, or on their way to it, before it is their turn."""

    def __init__(self, groups: Mapping[tuple[int, ...], Gathered], passage: Passage, sent: Any) -> None:
        self._groups = dict(groups)
        self._passage = passage
        self._sent = sent

    def take(self, places: Sequence[int]) -> Gathered | None:
        """Return the inputs at some places of the batch, all of one shape; None if they are not here.

        Each is given once, with those of its shape: who tries again has them put together anew, for the method that
        failed may have written into them, or there was no memory.
        """
        wanted = set(places)
        for group in list(self._groups):
            if wanted <= set(group):
                held = self._groups.pop(group)
                self._passage.receive(self._sent, held.tensors())
                return held.only([group.index(place) for place in places])
        return None


class Sender:
    """Sends the inputs of batches to one device. May be used by several threads at once."""

    def __init__(self, passage: Passage) -> None:
        self._passage = passage

    @classmethod
    def to(cls, device: torch.device) -> Sender:
        """Return a sender to a device, which on a GPU computes meanwhile."""
        return cls(passage_to(device))

    def send(self, model: Model, inputs: Sequence[DecodedInput]) -> Ahead:
        """Send the inputs of a batch, in the order in which it will have them, to the device of its model.

        Raises:
            RuntimeError, MemoryError: there is no memory; `torch.OutOfMemoryError` is one.
        """
        shapes: dict[tuple[Any, ...], list[int]] = {}
        for place, item in enumerate(inputs):
            shapes.setdefault(item.shapes, []).append(place)
        with self._passage.sending():
            groups = {tuple(places): gather(model, [inputs[place] for place in places]) for places in shapes.values()}
        return Ahead(groups, self._passage, self._passage.sent())


def _rows(tensor: Tensor | None, rows: Sequence[int]) -> Tensor | None:
    return torch.stack([tensor[row] for row in rows]) if tensor is not None and rows else None
