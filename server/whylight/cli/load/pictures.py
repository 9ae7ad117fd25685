"""Pictures to send where none are given: made from a seed, as large in bytes as photographs of their size are."""

from __future__ import annotations

import io
import random


def synthetic(width: int, height: int, seed: int) -> bytes:
    """Return a JPEG of quality 90 with soft noise in each channel, which compresses about as a photograph does.

    Plain noise would be several times as long, and a single colour a hundredth.
    """
    from PIL import Image, ImageFilter

    chance = random.Random(f"{width} x {height} {seed}")
    channels = []
    for _ in range(3):
        noise = Image.frombytes("L", (width, height), chance.randbytes(width * height))
        channels.append(
            noise.filter(ImageFilter.GaussianBlur(1.5)).point(
                [min(255, max(0, level * 4 - 384)) for level in range(256)]
            )
        )
    buffer = io.BytesIO()
    Image.merge("RGB", channels).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()
