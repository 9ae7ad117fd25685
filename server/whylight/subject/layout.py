"""How a layer's output lies on the picture: as maps, with channels last, as a grid of tokens; knows no model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor

from whylight.errors import Unsupported

LEADING = 16
"""Tokens that may stand before those of the picture: for the class, for distillation, registers."""

_UNEVEN = 1.5
"""How much more a position may cover in one direction than in the other, for a shape to be taken for a grid."""


@dataclass(frozen=True)
class Layout:
    """Where channels and positions are in a layer's output `[N, ...]`.

    `channel_axis` counts without the batch: 0 in maps `[C, h, w]`, 2 in `[h, w, C]`, 1 in tokens `[T, C]`, of which the
    first `leading` are not on the picture and the others lie on it row by row, each on `stride` (down, across) pixels
    of the input.
    """

    channel_axis: int = 0
    leading: int = 0
    stride: tuple[float, float] = (1.0, 1.0)

    def maps(self, output: Tensor, size: tuple[int, int]) -> Tensor:
        """Return an output, or gradients at it, as maps `[N, C, h, w]`: a view. `size` is (H, W) of the input.

        Raises:
            Unsupported: for an input of this size there are not as many tokens as the grid has places.
        """
        if self.channel_axis == 0:
            return output
        if self.channel_axis == 2:
            return output.movedim(-1, 1)
        grid = (round(size[0] / self.stride[0]), round(size[1] / self.stride[1]))
        if self.leading + grid[0] * grid[1] != output.shape[1]:
            raise Unsupported(
                f"the layer gives {output.shape[1]} tokens for an input of {size[0]} x {size[1]}; {self.leading} and a "
                f"grid of {grid[0]} x {grid[1]} were to be expected",
                field="options.layer",
            )
        # A view that lies in memory as channels_last does, which the operators take without a copy.
        return output[:, self.leading :].reshape(len(output), *grid, -1).permute(0, 3, 1, 2)


MAPS = Layout()
CHANNELS_LAST = Layout(channel_axis=2)


def find_layouts(outputs: Iterable[tuple[str, Sequence[int]]], size: tuple[int, int]) -> dict[str, Layout]:
    """Return the layouts of layers, given their outputs' shapes without the batch in the order in which they ran.

    `size` is (H, W) of the input. Shapes `[C, h, w]` are maps, unless only the first two lengths have the input's
    proportions: then channels are last, as in Swin. Tokens `[T, C]` lie on the last grid before them that has as many
    places, or a few less: that of the patch embedding. Other shapes have no layout.
    """
    layouts: dict[str, Layout] = {}
    grids: list[tuple[int, int]] = []
    for name, shape in outputs:
        layouts.pop(name, None)
        if len(shape) == 3:
            last = not _even(shape[1], shape[2], size) and _even(shape[0], shape[1], size)
            layouts[name] = CHANNELS_LAST if last else MAPS
            grid = (shape[0], shape[1]) if last else (shape[1], shape[2])
            if _even(*grid, size):
                grids.append(grid)
        elif len(shape) == 2:
            for height, width in reversed(grids):
                if 0 <= shape[0] - height * width <= LEADING and height * width > 1:
                    stride = (size[0] / height, size[1] / width)
                    layouts[name] = Layout(1, shape[0] - height * width, stride)
                    break
    return layouts


def _even(height: int, width: int, size: tuple[int, int]) -> bool:
    """Whether positions of a grid cover about as many pixels of the input down as across."""
    if 0 in (height, width):
        return False
    down, across = size[0] / height, size[1] / width
    return 1 / _UNEVEN <= down / across <= _UNEVEN
