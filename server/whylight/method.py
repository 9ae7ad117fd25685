"""What a method is, and what it is given and gives: the contract between the server and its plugins.

Imports torch only for type checking: a plugin's module loads in milliseconds, whatever it computes with.
"""

from __future__ import annotations

import abc
import enum
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from whylight.data_set import NO_DATA_SETS, DataSets
from whylight.options import Options, PlainOptions
from whylight.target import Target

if TYPE_CHECKING:
    import torch

    from whylight.artifact import Artifact
    from whylight.models.model import Model
    from whylight.subject import Subject
    from whylight.subject.cancel import CancelToken


class Need(enum.Enum):
    """Something that a method needs of a model. The server refuses a model that lacks it before running, naming it."""

    GRADIENTS = "gradients"  # the target can be differentiated
    SPATIAL_LAYER = "spatial-layer"  # some layer gives maps [N, C, h, w], or tokens that lie on the picture
    RELU = "relu"  # some function or layer is ReLU
    ATTENTION = "attention"  # every attention of the model is between the same tokens, which lie on the picture
    LATENTS = "latents"  # the model names its latent variables
    GAP_HEAD = "gap-head"  # maps -> global average pooling -> one linear layer -> class scores


class TargetUse(enum.Enum):
    """Whether a call of a method names targets."""

    NONE = "none"  # they are refused
    OPTIONAL = "optional"  # without one, the method chooses
    REQUIRED = "required"
    BY_OPTIONS = "by-options"  # the method's options say whether one is required or refused


@dataclass(frozen=True)
class Presentation:
    """How the map of a method is to be shown.

    `rectified`: the definition ends in a ReLU, which the server applies (fused with the drawing).
    `signed`: zero means nothing and the sign means something; normalised by the largest magnitude to -1..1.
    """

    rectified: bool = False
    signed: bool = False


@dataclass(frozen=True)
class Batch:
    """Inputs that are explained together, and their targets.

    `inputs` is `[N, C, H, W]` on the model's device, normalised by the model's transform. There are M >= N targets;
    target `m` is of input `rows[m]`, and `rows` never decreases. `seeds` has one seed per input (stochastic methods:
    draw from ``batch.generator(n)``, so that an input gets the same numbers alone and in any batch). `companions` are
    what the model takes besides the inputs, by name, `[N, ...]`; the subject gives each run those of its rows.
    """

    inputs: torch.Tensor
    targets: tuple[Target, ...]
    rows: tuple[int, ...]
    cancel: CancelToken
    seeds: tuple[int, ...] = ()
    companions: Mapping[str, torch.Tensor] = field(default_factory=dict)
    progress: Callable[[int, int, torch.Tensor | None], None] | None = field(default=None, repr=False, compare=False)

    def companions_at(self, rows: slice | torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the companions of some rows."""
        return {name: values[rows] for name, values in self.companions.items()}

    def generator(self, row: int) -> torch.Generator:
        """Return the source of random numbers of input `row`, always at its beginning."""
        import torch

        return torch.Generator(device=self.inputs.device).manual_seed(self.seeds[row])

    def report(self, done: int, total: int, maps: torch.Tensor | None = None) -> None:
        """Tell those who wait that `done` of `total` is done, 0 <= done <= total, in any unit; nobody may be listening.

        `maps` are those so far, `[M, h, w]`, if the method has them at hand. Report as often as you like, such as after
        every chunk: what nobody has time for goes nowhere. It changes nothing of the result.
        """
        if self.progress is not None:
            self.progress(done, total, maps)


@dataclass(frozen=True)
class Maps:
    """What an attribution gives when a bare tensor does not say it all.

    `maps` is `[M, h, w]`, one for each target; `checks` holds numbers `[M]` by which to check them.
    """

    maps: torch.Tensor
    checks: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Method(abc.ABC):
    """One way of explaining. Instances hold no state: the server makes one and calls it from its worker's thread."""

    name: ClassVar[str]
    """Unique in a server, kebab-case."""
    version: ClassVar[str] = "1"
    """Changes when the method's numbers change."""
    reference: ClassVar[str] = ""
    """Paper that defines it."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What it needs of a model."""
    stochastic: ClassVar[bool] = False
    """Whether it draws random numbers (from ``batch.generator`` only)."""
    takes: ClassVar[tuple[str, ...]] = ()
    """The pictures that it takes, in order, such as ("content", "style"); "start?" may be left out, "pictures+" is one
    or more, "pictures*" any number."""
    Options: ClassVar[type[PlainOptions]] = PlainOptions
    """What a caller may set."""

    @classmethod
    def summary(cls) -> str:
        """Return the first line of the docstring."""
        return (cls.__doc__ or "").strip().partition("\n")[0]

    def target_use(self) -> TargetUse:
        """Return whether a call names targets."""
        return TargetUse.OPTIONAL

    def cost(self, options: Any) -> float:
        """Return how many model evaluations one input with one target needs; a batch is planned by it."""
        return 1.0

    def cost_per_target(self, options: Any) -> float:
        """Return how many model evaluations each further target of the same input needs."""
        return self.cost(options)


class Attribution(Method):
    """A method that says why the model answered this for an input."""

    takes: ClassVar[tuple[str, ...]] = ("pictures+",)
    Options: ClassVar[type[Options]] = Options

    @abc.abstractmethod
    def attribute(self, subject: Subject, batch: Batch, options: Any) -> torch.Tensor | Maps:
        """Return a raw map for each target, `[M, h, w]` at any resolution; resizing and drawing are not its work."""

    def costs_on(self, model: Model, options: Any) -> tuple[float, float]:
        """Return `cost` and `cost_per_target` on a model, for methods whose cost depends on what it is like."""
        return self.cost(options), self.cost_per_target(options)

    def presentation(self, options: Any) -> Presentation:
        """Return how the map is to be shown."""
        return Presentation()


@dataclass(frozen=True)
class SynthesisTask:
    """Pictures that are made together, for one caller or several; none has an influence on another one.

    There are B of them. `targets` has what each is to show (None where the caller named nothing), `seeds` one seed for
    each, `size` the (H, W) to be made. `pictures` are those that the callers gave, `[B, P, C, H, W]` of 0 (black) to 1
    (white), in the order of the method's `takes`; P may be 0.
    """

    targets: tuple[Target | None, ...]
    pictures: torch.Tensor
    seeds: tuple[int, ...]
    size: tuple[int, int]
    cancel: CancelToken

    def generators(self) -> list[torch.Generator]:
        """Return a source of random numbers for each picture, on the CPU, always at its beginning."""
        import torch

        return [torch.Generator().manual_seed(seed) for seed in self.seeds]


@dataclass(frozen=True)
class Progress:
    """How far long work has come: step `step` of `total`.

    `losses` are `[B]` by name; `images` `[B, C, H, W]`, 0 black and 1 white, are what there is to see by now.
    """

    step: int
    total: int
    losses: Mapping[str, torch.Tensor] = field(default_factory=dict)
    images: torch.Tensor | None = None


@dataclass(frozen=True)
class Pause:
    """A place within a step where the server may do other work: yield it where a step takes long. It tells nothing."""


@dataclass(frozen=True)
class Synthesised:
    """What a synthesis made: images `[B, C, H, W]`, 0 black and 1 white, and numbers `[B]` by which to check them."""

    images: torch.Tensor
    checks: Mapping[str, torch.Tensor] = field(default_factory=dict)


class Synthesis(Method):
    """A method that makes pictures of what a model has learned."""

    wants_target: ClassVar[bool] = True
    """Whether the caller must name a target, where that does not depend on the options; else none is taken."""

    def takes_target(self, options: Any) -> bool:
        """Return whether the caller must name a target with these options; if not, none is taken."""
        return self.wants_target

    def target_use(self) -> TargetUse:
        """Return whether a call names targets; it depends on the options where a method says so by itself."""
        if type(self).takes_target is not Synthesis.takes_target:
            return TargetUse.BY_OPTIONS
        return TargetUse.REQUIRED if self.wants_target else TargetUse.NONE

    @abc.abstractmethod
    def synthesise(
        self, subject: Subject, task: SynthesisTask, options: Any
    ) -> Iterator[Progress | Pause | Synthesised]:
        """Make the pictures of `task`: yield `Progress` at every step, and in the end one `Synthesised`.

        Where it yields, the server does other work, and stops for good where nobody waits any more.
        """


@dataclass(frozen=True)
class InspectionTask:
    """What one caller wants to see.

    `inputs` are the caller's, `[P, C, H, W]` normalised by the model's transform; P may be 0. `targets` are as named.
    `data_sets` are the pictures that the operator lets methods look at.
    """

    inputs: torch.Tensor
    targets: tuple[Target, ...]
    seed: int
    cancel: CancelToken
    data_sets: DataSets = NO_DATA_SETS


@dataclass(frozen=True)
class Inspected:
    """What an inspection found: artifacts, each under its name, and numbers by which to check them."""

    artifacts: tuple[Artifact, ...]
    checks: Mapping[str, float] = field(default_factory=dict)


class Inspection(Method):
    """A method that shows what a model sees inside."""

    takes: ClassVar[tuple[str, ...]] = ("pictures*",)
    looks_at_targets: ClassVar[bool] = True
    """Whether it does something with the targets that a caller names."""

    def target_use(self) -> TargetUse:
        """Return whether a call names targets."""
        return TargetUse.OPTIONAL if self.looks_at_targets else TargetUse.NONE

    @abc.abstractmethod
    def inspect(self, subject: Subject, task: InspectionTask, options: Any) -> Iterator[Progress | Pause | Inspected]:
        """Look: yield `Progress` now and then where it takes long, and in the end one `Inspected`."""
