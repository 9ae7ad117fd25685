"""Decodes what a caller sends into what a model takes, and bounds what is drawn of it; runs no model."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from whylight import decode
from whylight.decode import DecodedInput, decode_image, decode_pixels, decode_tensor
from whylight.errors import InvalidInput, Unsupported, WhylightError
from whylight.explainer.plan import ExplanationPlan
from whylight.frozen_array import FrozenArray
from whylight.limits import Limits
from whylight.models.companion import check_companions
from whylight.outputs import BoxesOutput, Canvas, MapOutput, MaskOutput, Output, PictureFormat
from whylight.target import Similarity, Target, size_of

if TYPE_CHECKING:
    from whylight.models import Model, Transform
    from whylight.models.transform import Fitted

REFERENCES = 4
"""How many times the pixels of one picture the references of one input may have together: each of 64 targets may have
one, and a small file can hold as many pixels as are allowed."""

_LONGEST = 64
"""How many times one side may be as long as the other: a resize of the shorter side blows a thin picture up."""


def decode_input(
    plan: ExplanationPlan,
    data: bytes | npt.NDArray[Any] | Image.Image,
    limits: Limits,
    companions: Mapping[str, npt.NDArray[Any]] | None = None,
    targets: Sequence[Target] = (),
) -> DecodedInput:
    """Read an image file, an array or an upright RGB picture for the model of `plan`.

    Image files and uint8 arrays `[H, W, 3]` go through the model's transform; float arrays `[C, H, W]` are the model's
    normalised input. The references of `targets` are read in the same way and within the same limits; together they
    have at most `REFERENCES` times the pixels of one picture.

    Raises:
        InvalidInput: IMAGE_UNREADABLE, IMAGE_TOO_LARGE, TENSOR_INVALID, TENSOR_TOO_LARGE, COMPANION_MISSING,
            COMPANION_UNKNOWN.
        Unsupported: INPUT_UNSUPPORTED, a picture for a model that takes neither grey nor colour pictures.
    """
    started = time.perf_counter()
    decoded = _decoded(plan, data, limits, drawn=True)
    checked = check_companions(plan.model.companions, companions or {})
    references: dict[bytes | FrozenArray, DecodedInput] = {}
    left = REFERENCES * limits.image_pixels
    for place, target in enumerate(targets):
        image = target.image if isinstance(target, Similarity) else None
        if image is not None and image not in references:
            try:
                within = dataclasses.replace(limits, image_pixels=min(left, limits.image_pixels))
                read = _decoded(plan, image if isinstance(image, bytes) else image.numpy(), within, drawn=False)
                left -= math.prod(read.original_size)
            except WhylightError as error:
                if error.reason == "IMAGE_TOO_LARGE" and left < limits.image_pixels:
                    all_of_them = f"what is left of {REFERENCES * limits.image_pixels} for all references of an input"
                    error = InvalidInput(
                        f"{error.message}, {all_of_them}", reason=error.reason, field=error.violations[0].field
                    )
                raise error.locate({"input": f"input.targets[{place}].similarity"}) from None
            references[image] = dataclasses.replace(read, companions=checked)
    return dataclasses.replace(
        decoded, decode_time=time.perf_counter() - started, companions=checked, references=references
    )


def target_bytes(model: Model, target: Target) -> int:
    """Return how many bytes of a target's own are in an answer, where a reference has become an embedding."""
    if isinstance(target, Similarity) and target.embedding is None:
        shape = model.layer(target.layer).output_shape if target.layer else model.output_shape
        return 4 * math.prod(shape)
    return size_of(target)


def answer_bytes(outputs: Sequence[Output], item: DecodedInput) -> int:
    """Return about how many bytes the artifacts of one map will take, from above but for tiny pictures.

    Arrays take what they hold; a PNG is counted as its pixels, JPEG and WebP as a third of them. A native map is
    counted as one of the input's size.
    """
    total = 0
    for output in outputs:
        if isinstance(output, BoxesOutput):
            continue
        width, height = item.original_size if output.canvas is Canvas.ORIGINAL else item.size
        if isinstance(output, MapOutput):
            each = np.dtype(output.dtype).itemsize
        elif isinstance(output, MaskOutput):
            each = 1
        else:
            each = 3 if output.format is PictureFormat.PNG else 1
        total += width * height * each
    return total


def _decoded(
    plan: ExplanationPlan, data: bytes | npt.NDArray[Any] | Image.Image, limits: Limits, *, drawn: bool
) -> DecodedInput:
    """Read a picture or a model's input; with `drawn`, also what the outputs of the plan draw on."""
    if isinstance(data, np.ndarray) and data.dtype != np.uint8:
        return _of_tensor(plan, decode_tensor(data, plan.model.input_channels, limits), drawn)
    if isinstance(data, np.ndarray):
        return _of_picture(plan, decode_pixels(data, limits), "input.tensor.shape", drawn)
    if isinstance(data, Image.Image):
        return _of_picture(plan, data, "input.image", drawn)
    picture = decode_image(data, limits)
    if not drawn or not plan.draws_on_original or picture.width * picture.height <= decode.KEPT_PIXELS:
        return _of_picture(plan, picture, "input.image", drawn)
    item = _of_picture(plan, picture, "input.image", drawn, kept=False)
    return dataclasses.replace(item, again=lambda: np.array(decode_image(data, limits)))


def fit_picture(transform: Transform, model: str, picture: Image.Image, field: str) -> Fitted:
    """Bring an upright RGB picture to what a model takes.

    Raises:
        InvalidInput: IMAGE_TOO_LARGE, one side is far longer than the other.
        Unsupported: INPUT_UNSUPPORTED, the model takes neither grey nor colour pictures.
    """
    if transform.channels not in (1, 3):
        raise Unsupported(
            f"the model {model!r} takes {transform.channels} channels; send a float tensor, not a picture",
            reason="INPUT_UNSUPPORTED",
            field=field,
        )
    if isinstance(transform.resize, int) and max(picture.size) > _LONGEST * min(picture.size):
        raise InvalidInput(
            f"{picture.width} x {picture.height} pixels: one side is more than {_LONGEST} times as long as the other",
            reason="IMAGE_TOO_LARGE",
            field=field,
        )
    return transform.fit(picture)


def _of_picture(
    plan: ExplanationPlan, picture: Image.Image, field: str, drawn: bool, *, kept: bool = True
) -> DecodedInput:
    fitted = fit_picture(plan.model.transform, plan.model.name, picture, field)
    return DecodedInput(
        values=fitted.pixels,
        seen=_rgb(fitted.pixels) if drawn and plan.draws_on_seen else None,
        original=np.array(picture) if drawn and kept and plan.draws_on_original else None,
        box=fitted.box,
        original_size=fitted.original_size,
    )


def _of_tensor(plan: ExplanationPlan, values: npt.NDArray[np.float32], drawn: bool) -> DecodedInput:
    """Take a normalised input as the whole of its own picture."""
    _, height, width = values.shape
    drawn = drawn and (plan.draws_on_seen or plan.draws_on_original)
    seen = _pixels(plan.model.transform, values) if drawn else None
    return DecodedInput(
        values=values, seen=seen, original=seen, box=(0.0, 0.0, width, height), original_size=(width, height)
    )


def _pixels(transform: Transform, values: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Undo the normalisation, for something to draw on: RGB of three channels, the grey mean of any other number."""
    mean, std = (np.array(numbers, np.float32)[:, None, None] for numbers in (transform.mean, transform.std))
    pixels = (values * std + mean) * (transform.scale / 255) if len(mean) == len(values) else values
    if len(pixels) != 3:
        pixels = pixels.mean(axis=0, keepdims=True)
    elif transform.channel_order == "bgr":
        pixels = pixels[::-1]
    return _rgb((pixels.clip(0, 1) * 255).round().astype(np.uint8).transpose(1, 2, 0))


def _rgb(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return pixels if pixels.shape[2] == 3 else np.repeat(pixels, 3, axis=2)
