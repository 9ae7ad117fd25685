"""Numbers as a value: an array that cannot change, can be compared and is a key; knows no torch and no meaning.

Imports NumPy when it is used: the command line reads targets without it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy.typing as npt


@dataclass(frozen=True)
class FrozenArray:
    """An array by its type, shape and little-endian bytes in row-major order; equal ones are equal keys."""

    dtype: str
    shape: tuple[int, ...]
    data: bytes = field(repr=False)

    @classmethod
    def of(cls, array: npt.ArrayLike) -> FrozenArray:
        """Return the numbers of anything that NumPy reads as an array."""
        import numpy as np

        read = np.asarray(array)
        return cls(read.dtype.name, read.shape, read.astype(read.dtype.newbyteorder("<"), copy=False).tobytes())

    def numpy(self) -> npt.NDArray[Any]:
        """Return the numbers, read-only, without a copy."""
        import numpy as np

        return np.frombuffer(self.data, np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)
