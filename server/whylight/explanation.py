"""What a caller gets: predictions and explanations of one input; knows not how they were made or how they travelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy.typing as npt

from whylight.artifact import Artifact, Box, Boxes, Map, Picture
from whylight.target import Target

AnyArtifact = TypeVar("AnyArtifact", Map, Picture, Boxes)


@dataclass(frozen=True)
class Prediction:
    """A class and how sure the model is of it: `score` before the softmax, `probability` after it."""

    class_index: int
    label: str
    score: float
    probability: float


@dataclass(frozen=True)
class Execution:
    """How the work was done. Times in seconds; `compute_time` is shared by all inputs of the batch.

    `shared` names what was not computed again because an earlier method of the call had it. `cached` tells that the
    answer was kept from an equal question; the rest is then of the work for that one.
    """

    batch_size: int = 1
    queue_time: float = 0.0
    compute_time: float = 0.0
    decode_time: float = 0.0
    render_time: float = 0.0
    device: str = "cpu"
    shared: tuple[str, ...] = ()
    cached: bool = False


@dataclass(frozen=True)
class Curve:
    """What a metric's value is made of: `y` at each `x`."""

    x: tuple[float, ...]
    y: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """How far a map can be trusted, as one metric says; `higher_is_better` tells which of two values is the better.

    `seed` is set for stochastic metrics only; `compute_time`, in seconds, is shared by all inputs of the batch.
    """

    metric: str
    metric_version: str
    options: Mapping[str, Any]
    value: float
    higher_is_better: bool
    curve: Curve | None = None
    seed: int | None = None
    compute_time: float = 0.0


@dataclass(frozen=True)
class Explanation:
    """Why a model gave one answer, by one method.

    `map_min` and `map_max` are of the native map, behind the method's final ReLU and before normalisation; `checks`
    holds numbers by which to check the answer, such as a completeness residual; `seed` is set for stochastic methods
    only; `measurements` are what the metrics of an evaluation say of the map, in the order of the call.
    """

    method: str
    method_version: str
    options: Mapping[str, Any]
    target: Target | None
    target_label: str
    target_score: float
    map_min: float
    map_max: float
    artifacts: tuple[Artifact, ...]
    checks: Mapping[str, float] = field(default_factory=dict)
    seed: int | None = None
    execution: Execution = field(default_factory=Execution)
    measurements: tuple[Measurement, ...] = ()

    def __getitem__(self, name: str) -> Artifact:
        for artifact in self.artifacts:
            if artifact.name == name:
                return artifact
        raise KeyError(f"no artifact {name!r}; there are {[artifact.name for artifact in self.artifacts]}")

    @property
    def map(self) -> npt.NDArray[Any]:
        """The first map of the artifacts, `[H, W]`."""
        array: npt.NDArray[Any] = self._first(Map).array
        return array

    @property
    def picture(self) -> Picture:
        """The first picture of the artifacts."""
        return self._first(Picture)

    @property
    def boxes(self) -> tuple[Box, ...]:
        """The first set of boxes of the artifacts."""
        return self._first(Boxes).boxes

    def save(self, path: str | Path) -> Path:
        """Write the first picture to `path`, as it came, and return the path.

        Raises:
            LookupError: no picture was asked for.
        """
        path = Path(path)
        path.write_bytes(self.picture.data)
        return path

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        """Show the first picture in a notebook, and the words everywhere."""
        pictures = [artifact for artifact in self.artifacts if isinstance(artifact, Picture)]
        bundle: dict[str, Any] = {"text/plain": repr(self)}
        if pictures and pictures[0].media_type in ("image/png", "image/jpeg"):
            bundle[pictures[0].media_type] = pictures[0].data
        return bundle

    def _first(self, kind: type[AnyArtifact]) -> AnyArtifact:
        for artifact in self.artifacts:
            if isinstance(artifact, kind):
                return artifact
        raise LookupError(f"this explanation has no {kind.__name__.lower()}; ask for one with outputs=")


@dataclass(frozen=True)
class Explained:
    """What was found out about one input. Sizes are (width, height) in pixels.

    `model_digest` tells which weights answered, also where a server was given new ones between two calls.
    """

    predictions: tuple[Prediction, ...]
    explanations: tuple[Explanation, ...]
    original_size: tuple[int, int]
    input_size: tuple[int, int]
    model: str = ""
    model_digest: str = ""

    @property
    def explanation(self) -> Explanation:
        """The only explanation, or the first."""
        return self.explanations[0]
