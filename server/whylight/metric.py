"""What a metric of maps is, and what it is given and gives: the contract between the server and its plugins.

Imports torch only for type checking, as `whylight.method` does.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from whylight.options import PlainOptions

if TYPE_CHECKING:
    import torch

    from whylight.method import Batch, Need
    from whylight.subject import Subject


@dataclass(frozen=True)
class Curve:
    """What a metric's values are made of: `y` `[M, K]`, one row for each target, at `x` `[K]`."""

    x: torch.Tensor
    y: torch.Tensor


@dataclass(frozen=True)
class Measured:
    """What a metric found: one number for each target, `values` `[M]`, and the curves behind them, if there are any."""

    values: torch.Tensor
    curve: Curve | None = None


class Explain(Protocol):
    """Runs the method whose maps are measured once more, with its own options and seeds."""

    def __call__(self, batch: Batch, subject: Subject | None = None) -> torch.Tensor:
        """Return the maps `[M, h, w]` of a batch that has the rows and targets of the one that is measured.

        `subject` is the model to ask, such as ``subject.model.randomised(0).subject()``; None is the served one.
        """


class Metric(abc.ABC):
    """One way of telling how far a map can be trusted. Instances hold no state, as those of methods."""

    name: ClassVar[str]
    """Unique among the metrics of a server, kebab-case."""
    version: ClassVar[str] = "1"
    """Changes when the metric's numbers change."""
    reference: ClassVar[str] = ""
    """Paper that defines it."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it needs of a model, besides what the method needs."""
    stochastic: ClassVar[bool] = False
    """Whether it draws random numbers (from ``batch.generator`` only)."""
    higher_is_better: ClassVar[bool] = True
    """Which of two maps with different values is the better one."""
    Options: ClassVar[type[PlainOptions]] = PlainOptions
    """What a caller may set."""

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    @abc.abstractmethod
    def measure(self, subject: Subject, batch: Batch, maps: torch.Tensor, explain: Explain, options: Any) -> Measured:
        """Return how good the maps `[M, h, w]` of the batch's targets are: finite numbers.

        The maps are those of a method behind the ReLU that its definition ends in, at any resolution: they lie over the
        whole input. The seeds of the batch are the metric's own. A map gets the same value alone and in any batch.
        """

    def cost(self, options: Any) -> float:
        """Return how many model evaluations one map needs, reruns of the method left out."""
        return 0.0

    def explanations(self, options: Any) -> int:
        """Return how many times `explain` is called."""
        return 0
