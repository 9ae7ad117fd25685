"""What a model takes besides the picture: type, shape and range, and whether given numbers fit; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, model_validator

from whylight.errors import InvalidInput
from whylight.limits import COMPANION_ELEMENTS

ANY_LENGTH = -1


class Companion(BaseModel):
    """One further input of a model, such as the tokens of a question; given to the module by its name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    shape: tuple[int, ...] = Field(
        (), description="Its shape for one input, without the batch; -1 where any length will do."
    )
    dtype: Literal["float32", "int64"] = Field("int64", description="Type of its elements.")
    low: int = Field(0, description="Smallest value of an int64 companion.")
    high: int | None = Field(
        None, description="Largest value of an int64 companion; needed, for a token beyond the table ends the worker."
    )
    example: Any = Field(
        None,
        description="What the model is tried with when it is loaded, as lists of numbers. Unset: `low` (or 0) "
        "everywhere, and 1 for any length.",
    )

    @model_validator(mode="after")
    def _is_whole(self) -> Companion:
        if any(length < ANY_LENGTH or length == 0 for length in self.shape):
            raise ValueError("the lengths of a shape are 1 or more, or -1 for any")
        if self.dtype == "int64" and (self.high is None or self.high < self.low):
            raise ValueError("an int64 companion needs 'high', the largest value that the model takes")
        if self.example is not None:
            try:
                given = np.asarray(self.example)
                self.check("example", given.astype(self.dtype, casting="same_kind"), "example")
            except (TypeError, ValueError, InvalidInput) as error:
                raise ValueError(f"the example does not fit: {error}") from None
        return self

    def usual(self) -> npt.NDArray[Any]:
        """Return the example, or what stands for it."""
        if self.example is not None:
            return np.asarray(self.example).astype(self.dtype)
        shape = [1 if length == ANY_LENGTH else length for length in self.shape]
        return np.full(shape, self.low if self.dtype == "int64" else 0, self.dtype)

    def check(self, name: str, array: npt.NDArray[Any], field: str) -> npt.NDArray[Any]:
        """Return `array` if it is of this type, shape and range.

        Raises:
            InvalidInput: TENSOR_INVALID, or TENSOR_TOO_LARGE.
        """
        if array.dtype.name != self.dtype:
            raise _invalid(f"{name!r} is {self.dtype}, not {array.dtype.name}", f"{field}.dtype")
        fits = len(array.shape) == len(self.shape) and all(
            length > 0 if wanted == ANY_LENGTH else length == wanted
            for length, wanted in zip(array.shape, self.shape, strict=True)
        )
        if not fits:
            wanted = ", ".join("any" if length == ANY_LENGTH else str(length) for length in self.shape)
            raise _invalid(f"{name!r} is of shape [{wanted}], not {list(array.shape)}", f"{field}.shape")
        if math.prod(array.shape) > COMPANION_ELEMENTS:
            raise InvalidInput(
                f"{array.size} elements, more than the {COMPANION_ELEMENTS} that are allowed",
                reason="TENSOR_TOO_LARGE",
                field=f"{field}.shape",
            )
        if self.dtype == "float32":
            if not np.isfinite(array).all():
                raise _invalid(f"{name!r} has NaN or infinity", f"{field}.data")
        elif self.high is not None and array.size and not (self.low <= array.min() and array.max() <= self.high):
            raise _invalid(f"{name!r} has values outside {self.low} to {self.high}", f"{field}.data")
        return array


def check_companions(
    wanted: Mapping[str, Companion], given: Mapping[str, npt.NDArray[Any]]
) -> dict[str, npt.NDArray[Any]]:
    """Return what is given, in the order in which it is wanted. Field paths are ``input.companions[NAME]``.

    Raises:
        InvalidInput: one is missing or unknown (COMPANION_MISSING, COMPANION_UNKNOWN), or does not fit (as `check`).
    """
    for name in given:
        if name not in wanted:
            known = ", ".join(map(repr, wanted)) or "none"
            raise InvalidInput(
                f"the model takes no companion {name[:64]!r}; it takes {known}",
                reason="COMPANION_UNKNOWN",
                field=f"input.companions[{name[:64]}]",
            )
    for name in wanted:
        if name not in given:
            raise InvalidInput(
                f"the model needs the companion {name!r} beside the picture",
                reason="COMPANION_MISSING",
                field=f"input.companions[{name}]",
            )
    return {name: want.check(name, given[name], f"input.companions[{name}]") for name, want in wanted.items()}


def _invalid(message: str, field: str) -> InvalidInput:
    return InvalidInput(message, reason="TENSOR_INVALID", field=field)
