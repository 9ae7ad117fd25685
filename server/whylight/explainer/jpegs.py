"""Decodes the JPEG files of a batch together, on a GPU where there is one; knows neither the batch nor the model.

What a file says of itself is read by Pillow on the host, as for every other file, and so are the bounds: before a pixel
is decoded. A file that another decoder may show otherwise than as fine differences of rounding is left to Pillow, and
whether it is depends on nothing but the file, so that its pixels are the same in whatever company it comes.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from whylight.decode import KEPT_PIXELS, PlainJpeg, plain_jpeg, turned
from whylight.explainer.gathering import passage_to
from whylight.limits import Limits

_log = logging.getLogger(__name__)

TOGETHER_PIXELS = 4 * KEPT_PIXELS
"""Pixels that are decoded in one go at most: 192 MiB of the device as RGB, and as much again while they are turned."""


@dataclass
class Counts:
    """How many files the device decoded, and how many of those that were meant for it it would not."""

    decoded: int = 0
    refused: int = 0


class JpegDecoder:
    """Decodes by torchvision on `device`: nvJPEG on a GPU, libjpeg-turbo on the host. For several threads.

    torchvision 0.29 has what it takes and calls it deprecated; a release that has it no more is named at the start.

    Raises:
        ValueError: torchvision is not there, or cannot decode pictures; it says so.
    """

    def __init__(self, device: torch.device, limits: Limits) -> None:
        try:
            import torchvision.io
        except (ImportError, RuntimeError) as error:
            raise ValueError(f"worker.gpu_decode needs torchvision, which cannot be imported: {error}") from None
        if not hasattr(torchvision.io, "decode_jpeg"):
            raise ValueError(f"worker.gpu_decode needs torchvision.io.decode_jpeg; {torchvision.__version__} has none")
        self._decode_jpeg = torchvision.io.decode_jpeg
        self._mode = torchvision.io.ImageReadMode.RGB
        self._device = device
        self._limits = limits
        self._passage = passage_to(device)
        self.counts = Counts()
        self._lock = threading.Lock()

    @classmethod
    def for_gpu(cls, device: torch.device, limits: Limits) -> JpegDecoder:
        """Return a decoder for a worker that was told to decode on its GPU.

        Raises:
            ValueError: it has none, or torchvision does not do it.
        """
        if device.type != "cuda":
            raise ValueError(
                f"worker.gpu_decode is set, but this worker's device is {device}: leave it out, or give it a GPU"
            )
        return cls(device, limits)

    def decode(self, files: Sequence[bytes]) -> list[Image.Image | None]:
        """Return the upright RGB picture of each file; None for those that are to be decoded one by one on the host.

        Those are what is no plain JPEG (see `plain_jpeg`), what breaks a limit, and what the device refuses.
        """
        made: list[Image.Image | None] = [None] * len(files)
        plain = {}
        for place, data in enumerate(files):
            header = plain_jpeg(data, self._limits)
            if header is not None:
                plain[place] = header
        for places in _portions(plain):
            pixels = self._pixels([files[place] for place in places])
            for place, array in zip(places, pixels, strict=True):
                header = plain[place]
                if array is not None and array.shape == (header.height, header.width, 3):
                    made[place] = turned(Image.fromarray(array), header.orientation)
        decoded = sum(one is not None for one in made)
        with self._lock:
            self.counts.decoded += decoded
            self.counts.refused += len(plain) - decoded
        if decoded < len(plain):
            _log.warning(
                "%s refused %d of %d JPEG files, which the host decodes (%d of all so far)",
                self._device,
                len(plain) - decoded,
                len(plain),
                self.counts.refused,
            )
        return made

    def _pixels(self, files: Sequence[bytes]) -> Sequence[np.ndarray[tuple[int, ...], np.dtype[np.uint8]] | None]:
        """Return uint8 `[height, width, 3]` of each file, None where it was refused; one by one if all at once were."""
        sent = [torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in files]
        try:
            with self._passage.sending():  # or it waited for what computes on the device
                made = self._decode_jpeg(sent, mode=self._mode, device=self._device)
                return [one.permute(1, 2, 0).contiguous().cpu().numpy() for one in made]
        except (RuntimeError, ValueError) as error:
            if len(files) > 1:
                return [self._pixels([one])[0] for one in files]
            _log.info("a JPEG file of %d bytes was refused by %s: %s", len(files[0]), self._device, error)
            return [None]


def _portions(plain: dict[int, PlainJpeg]) -> Iterator[list[int]]:
    """Yield the places in portions of at most `TOGETHER_PIXELS`."""
    portion: list[int] = []
    pixels = 0
    for place, header in plain.items():
        size = header.width * header.height
        if portion and pixels + size > TOGETHER_PIXELS:
            yield portion
            portion, pixels = [], 0
        portion.append(place)
        pixels += size
    if portion:
        yield portion
