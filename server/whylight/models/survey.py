"""What one pass through a module shows: order, shapes and sizes of layers' outputs, the last maps; knows no target.

The last spatial layer is found in the pass, not by names or types: it is the last tensor `[N, C, h, w]` with h * w > 1
that some layer gives and that is not the output of a pooling layer, and it has the name of the last layer that gives
just this tensor, which is the outermost one. So it is `layer4` for ResNet-50 (not `layer4.2.relu`), `features.29` for
VGG-16 (the ReLU before the last pooling, as in the Grad-CAM paper), `features` for MobileNetV2, `bn2` for timm's
EfficientNets. A network that goes on with sequences of tokens `[N, T, D]` behind its last maps has none: the maps of a
patch embedding say nothing about what follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from whylight.subject.invariance import TAKEN_OVER


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

    def findings(self, output: Tensor, input_bytes: int) -> Findings:
        """Return what the pass showed; `output` is the model's selected output. Lets go of the tensors."""
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
        last_spatial = self._last_spatial(output)
        self._outputs = []
        return Findings(passes, shapes, groups, tuple(sizes), last_spatial, last_linear, input_bytes)

    @property
    def taken_over(self) -> int:
        """How often layers ran that `make_batch_invariant` takes over."""
        return sum(seen.replaceable for seen in self._outputs)

    def _last_spatial(self, output: Tensor) -> str | None:
        pooled = {id(seen.tensor) for seen in self._outputs if "pool" in seen.kind.lower()}
        found: str | None = None
        for seen in self._outputs:
            if seen.tensor is None:
                continue
            if seen.tensor.dim() == 3:
                found = None
            is_map = seen.tensor.dim() == 4 and seen.tensor.shape[2] * seen.tensor.shape[3] > 1
            if is_map and id(seen.tensor) not in pooled:
                found = seen.name
        return found


@dataclass(frozen=True)
class Findings:
    """What a pass of one input showed.

    `passes`: how often each layer ran. `shapes`: of its last output, without the batch dimension; empty if it is not
    one tensor. `sizes`: layers in the order in which they ended, with the bytes of their output (0 for containers).
    `input_bytes`: of the input.
    """

    passes: dict[str, int]
    shapes: dict[str, tuple[int, ...]]
    _groups: dict[str, int]
    sizes: tuple[tuple[str, int], ...]
    last_spatial: str | None
    last_linear: str
    input_bytes: int

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
