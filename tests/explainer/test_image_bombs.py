"""Small files that would be large pictures or large texts: refused, or read within bounds, by what a process took."""

from __future__ import annotations

import functools
import io
import json
import struct
import subprocess
import sys
import zlib

import pytest
from PIL import Image

MEASURE = """
import json, sys
from whylight.decode import decode_image
from whylight.errors import InvalidInput
from whylight.limits import Limits

def taken(name):
    return next(int(line.split()[1]) // 1024 for line in open("/proc/self/status") if line.startswith(name))

data = sys.stdin.buffer.read()
before = taken("VmRSS")
try:
    outcome = str(decode_image(data, Limits()).size)
except InvalidInput as error:
    outcome = error.reason
print(json.dumps([outcome, taken("VmHWM") - before]))
"""


def decoded_elsewhere(data: bytes) -> tuple[str, int]:
    """What came of a file in a process of its own, and how many mebibytes that took at most."""
    run = subprocess.run([sys.executable, "-c", MEASURE], input=data, capture_output=True, check=True, timeout=120)
    outcome, peak = json.loads(run.stdout)
    return outcome, peak


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, pixels: bytes = b"") -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    data = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + data + chunk(b"IEND", b"")


@functools.cache
def zeros(mebibytes: int) -> bytes:
    """A zlib stream of so many mebibytes of zeros, a thousandth as long."""
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(2**20)) for _ in range(mebibytes)) + packer.flush()


SMALL = b"".join(b"\0" + bytes(16 * 3) for _ in range(16))


def jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header says another size than it has."""
    file = io.BytesIO()
    Image.new("RGB", (16, 16)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    place = data.index(b"\xff\xc0")
    data[place + 5 : place + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp(width: int, height: int) -> bytes:
    """An animation of one small frame on a large canvas."""
    file = io.BytesIO()
    Image.new("RGB", (64, 64), (1, 2, 3)).save(file, "WEBP", lossless=True)
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = bytes(6) + (63).to_bytes(3, "little") * 2 + (100).to_bytes(3, "little") + b"\0" + file.getvalue()[12:]
    parts = ((b"VP8X", b"\2\0\0\0" + canvas), (b"ANIM", bytes(6)), (b"ANMF", frame))
    body = b"WEBP" + b"".join(name + struct.pack("<I", len(data)) + data for name, data in parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def animated(kind: str, frames: int = 60, side: int = 500) -> bytes:
    file = io.BytesIO()
    first, *others = [Image.new("RGB", (side, side), (number, 0, 0)) for number in range(frames)]
    first.save(file, kind, save_all=True, append_images=others)
    return file.getvalue()


BOMBS = {
    "png, header": (lambda: png(2**31 - 1, 2**31 - 1), "IMAGE_TOO_LARGE", 20),
    "png, pixels": (lambda: png(50_000, 50_000, pixels=b""), "IMAGE_TOO_LARGE", 20),
    "png, more pixels than its header says": (lambda: png_of(zeros(64)), "(16, 16)", 20),
    "png, text": (lambda: png(16, 16, chunk(b"zTXt", b"a\0\0" + zeros(64)), pixels=SMALL), "", 40),
    "png, texts": (lambda: png(16, 16, *[chunk(b"zTXt", b"a\0\0" + zeros(1))] * 300, pixels=SMALL), "", 200),
    "png, international text": (lambda: png(16, 16, chunk(b"iTXt", b"a\0\1\0\0\0" + zeros(64)), pixels=SMALL), "", 40),
    "png, profile": (lambda: png(16, 16, chunk(b"iCCP", b"a\0\0" + zeros(64)), pixels=SMALL), "", 40),
    "jpeg, header": (lambda: jpeg(65_500, 65_500), "IMAGE_TOO_LARGE", 20),
    "webp, canvas": (lambda: webp(16_383, 16_383), "IMAGE_TOO_LARGE", 20),
    "webp, frames": (lambda: animated("WEBP"), "(500, 500)", 40),
    "png, frames": (lambda: animated("PNG"), "(500, 500)", 40),
    "gif, frames": (lambda: animated("GIF"), "IMAGE_UNREADABLE", 20),
    "tiff": (lambda: animated("TIFF", 1), "IMAGE_UNREADABLE", 20),
}


def png_of(pixels: bytes) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 16, 16, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_does_not_go_off(name: str) -> None:
    make, expected, most = BOMBS[name]
    data = make()
    assert len(data) < 2**20
    outcome, peak = decoded_elsewhere(data)
    assert outcome == expected if expected else outcome in {"IMAGE_UNREADABLE", "IMAGE_TOO_LARGE", "(16, 16)"}
    assert peak < most, f"{outcome}, {peak} MiB"
