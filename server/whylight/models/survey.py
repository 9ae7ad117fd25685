"""What one pass through a module shows: order, shapes and sizes of layers' outputs, the last maps; knows no target.

The last spatial layer is found in the pass, not by names or types: it is the last tensor `[N, C, h, w]` with h * w > 1
that some layer gives and that is not the output of a pooling layer, and it has the name of the last layer that gives
just this tensor, which is the outermost one. So it is `layer4` for ResNet-50 (not `layer4.2.relu`), `features.29` for
VGG-16 (the ReLU before the last pooling, as in the Grad-CAM paper), `features` for MobileNetV2, `bn2` for timm's
EfficientNets. A network that goes on with sequences of tokens `[N, T, D]` behind its last maps has none: the maps of a
patch embedding say nothing about what follows. Where a model takes more than a picture, only a sequence with a token
for each position of the last maps is taken for such a one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from whylight.subject.invariance import TAKEN_OVER
from whylight.subject.layout import Layout, find_layouts

_FURTHER_TOKENS = 8
"""How many tokens beside those of the positions a sequence may have: of the class, of distillation, registers."""


@dataclass(frozen=True)
class _Output:
    name: str
    kind: str
    bottom: bool
    linear: bool
    replaceable: bool
    tensor: Tensor | None


class Survey:
    """Watches one pass, of one input, and is asked afterwards. Keeps all outputs until `close`."""

    wanted: frozenset[str] | None = None
    running: list[str] | None = None

    def __init__(self) -> None:
        self._outputs: list[_Output] = []

    def on_output(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Write the output down."""
        bottom = next(module.children(), None) is None
        tensor = output if isinstance(output, Tensor) else None
        self._outputs.append(
            _Output(
                name,
                type(module).__name__,
                bottom,
                isinstance(module, nn.Linear),
                isinstance(module, TAKEN_OVER),
                tensor,
            )
        )
        return None

    def findings(self, output: Tensor, input: Tensor, *, texts: bool = False) -> Findings:
        """Return what the pass of `input` showed; `output` is the selected output. Lets go of the tensors.

        With `texts`, sequences may be those of a text, unless they are as long as the last maps have positions.
        """
        passes: dict[str, int] = {}
        shapes: dict[str, tuple[int, ...]] = {}
        groups: dict[str, int] = {}
        sizes: list[tuple[str, int]] = []
        last_linear = ""
        for seen in self._outputs:
            passes[seen.name] = passes.get(seen.name, 0) + 1
            shapes[seen.name] = () if seen.tensor is None else tuple(seen.tensor.shape[1:])
            groups[seen.name] = id(seen.tensor)
            last_linear = seen.name if seen.linear else last_linear
            sizes.append((seen.name, seen.tensor.nbytes if seen.bottom and seen.tensor is not None else 0))
        last_spatial = self._last_spatial(output, texts)
        layouts = find_layouts(self._with_rows(len(input)), (input.shape[-2], input.shape[-1]))
        self._outputs = []
        return Findings(passes, shapes, groups, tuple(sizes), last_spatial, last_linear, input.nbytes, layouts)

    def _with_rows(self, rows: int) -> list[tuple[str, tuple[int, ...]]]:
        """Return the shapes of what has a row for each input, without it; of other layers empty ones."""
        return [
            (seen.name, tuple(seen.tensor.shape[1:]) if seen.tensor is not None and len(seen.tensor) == rows else ())
            for seen in self._outputs
            if seen.tensor is None or seen.tensor.dim() > 0
        ]

    @property
    def taken_over(self) -> int:
        """How often layers ran that `make_batch_invariant` takes over."""
        return sum(seen.replaceable for seen in self._outputs)

    def _last_spatial(self, output: Tensor, texts: bool) -> str | None:
        pooled = {id(seen.tensor) for seen in self._outputs if "pool" in seen.kind.lower()}
        found: str | None = None
        positions = 0
        for seen in self._outputs:
            if seen.tensor is None:
                continue
            if seen.tensor.dim() == 3:
                tokens = 0 <= seen.tensor.shape[1] - positions <= _FURTHER_TOKENS
                found = None if tokens or not texts else found
            is_map = seen.tensor.dim() == 4 and seen.tensor.shape[2] * seen.tensor.shape[3] > 1
            is_map = is_map and len(seen.tensor) == len(output)  # not one row for each box, or for each window
            if is_map and id(seen.tensor) not in pooled:
                found = seen.name
                positions = seen.tensor.shape[2] * seen.tensor.shape[3]
        return found


@dataclass(frozen=True)
class Findings:
    """What a pass of one input showed.

    `passes`: how often each layer ran. `shapes`: of its last output, without the batch dimension; empty if it is not
    one tensor. `sizes`: layers in the order in which they ended, with the bytes of their output (0 for containers).
    `input_bytes`: of the input. `layouts`: of the layers whose outputs lie on the picture, in the order in which they
    ended.
    """

    passes: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    _groups: dict[str, int]
    sizes: tuple[tuple[str, int], ...]
    last_spatial: str | None
    last_linear: str
    input_bytes: int
    layouts: dict[str, Layout]

    def same_output(self, one: str, other: str) -> bool:
        """Whether two layers give the very same tensor."""
        return one == other or (one in self._groups and self._groups[one] == self._groups.get(other))

    def bytes_per_row(self, gradients_at: str | None) -> int:
        """Return an estimate of the memory that one input takes while it runs.

        Without gradients three times the largest output (in, out, working space). With gradients at a layer ("" is the
        input) additionally twice all outputs behind it: what the graph keeps, and their gradients.
        """
        largest = max([self.input_bytes, *(size for _, size in self.sizes)])
        if gradients_at is None:
            return 3 * largest
        ends = [position for position, (name, _) in enumerate(self.sizes) if name == gradients_at]
        behind = self.sizes[ends[-1] + 1 :] if ends else self.sizes
        return 3 * largest + 2 * sum(size for _, size in behind)
