"""Reads the pictures and inputs of long work, and checks its targets; runs nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from whylight.decode import DecodedInput, decode_image, decode_pixels, decode_tensor
from whylight.errors import InvalidInput, Unsupported, WhylightError
from whylight.explainer.inputs import decode_input, fit_picture
from whylight.explainer.inspecting import check_sizes
from whylight.explainer.long_plan import LongPlan, check_count
from whylight.explainer.plan import ExplanationPlan
from whylight.explainer.targets import check_targets
from whylight.limits import Limits
from whylight.method import Inspection, TargetUse
from whylight.outputs import MapOutput
from whylight.target import Contrast, Rank, Similarity, Target

Data = bytes | npt.NDArray[Any] | Image.Image


def decode_pictures(
    plan: LongPlan, data: Sequence[Data], limits: Limits, check: Callable[[], None] = lambda: None
) -> tuple[npt.NDArray[np.float32], float]:
    """Return the pictures that a synthesis is given, float32 `[P, C, H, W]` from 0 to 1, and the seconds it took.

    Image files and uint8 arrays are brought to the plan's size as the model's transform brings them to its own; float
    arrays `[C, H, W]` are the model's normalised input, of just that size. `check` is called before each; what it
    raises is raised.

    Raises:
        InvalidInput, Unsupported: as `decode_input`, with paths that begin with ``inputs[i]``.
    """
    started = time.perf_counter()
    made = np.zeros((len(data), plan.model.input_channels, *plan.size), np.float32)
    for index, one in enumerate(data):
        check()
        try:
            made[index] = _picture(plan, one, limits)
        except WhylightError as error:
            raise error.locate({"input": f"inputs[{index}]"}) from None
    return made, time.perf_counter() - started


def decode_inputs(
    plan: LongPlan, data: Sequence[Data], limits: Limits, check: Callable[[], None] = lambda: None
) -> tuple[DecodedInput, ...]:
    """Return the inputs that an inspection is given. `check` is called before each; what it raises is raised.

    Raises:
        InvalidInput, Unsupported: as `decode_input`, with paths that begin with ``inputs[i]``; or they are not all of
            one size, or not as many as the method takes.
    """
    check_count(plan.method, len(data))
    plain = ExplanationPlan(plan.model, (), (MapOutput(),), 0)
    inputs = []
    for index, one in enumerate(data):
        check()
        try:
            inputs.append(decode_input(plain, one, limits))
        except WhylightError as error:
            raise error.locate({"input": f"inputs[{index}]"}) from None
    check_sizes(inputs)
    return tuple(inputs)


def check_aims(plan: LongPlan, targets: Sequence[Target], limits: Limits) -> None:
    """Refuse targets that the model has not, that only an input has, or of which an inspection makes nothing.

    Field paths begin with ``input.targets``.

    Raises:
        WhylightError: as `check_targets`.
    """
    if targets and isinstance(plan.method, Inspection) and plan.method.target_use() is TargetUse.NONE:
        raise InvalidInput(f"the method {plan.method.name!r} takes no target; leave it out", field="input.targets")
    check_targets(plan.model, targets, limits)
    for place, target in enumerate(targets):
        parts = (target.positive, target.negative) if isinstance(target, Contrast) else (target,)
        if any(isinstance(part, Rank) for part in parts):
            raise InvalidInput(
                "a rank is of an input's predictions, and there is no input; name a class",
                reason="TARGET_INVALID",
                field=f"input.targets[{place}]",
            )
        if isinstance(target, Similarity) and target.image is not None:
            raise Unsupported(
                "here a similarity is to an embedding, not to a picture",
                reason="TARGET_UNSUPPORTED",
                field=f"input.targets[{place}].similarity",
            )


def _picture(plan: LongPlan, data: Data, limits: Limits) -> npt.NDArray[np.float32]:
    transform = plan.model.transform
    if isinstance(data, np.ndarray) and data.dtype != np.uint8:
        values = decode_tensor(data, plan.model.input_channels, limits)
        if values.shape[1:] != plan.size:
            raise InvalidInput(
                f"an array of {list(values.shape)} is no picture of {plan.size[1]} x {plan.size[0]} pixels",
                reason="TENSOR_INVALID",
                field="input.tensor.shape",
            )
        unit: npt.NDArray[np.float32] = transform.to_unit(torch.from_numpy(np.array(values)[None]))[0].numpy()
        return unit
    kind = "tensor.shape" if isinstance(data, np.ndarray) else "image"
    if isinstance(data, np.ndarray):
        picture = decode_pixels(data, limits)
    else:
        picture = data if isinstance(data, Image.Image) else decode_image(data, limits)
    fitted = fit_picture(transform.resized(plan.size), plan.model.name, picture, f"input.{kind}")
    return fitted.pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(255)
