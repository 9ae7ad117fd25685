"""What callers get of a synthesis or an inspection: progress, previews, results; knows not how they were made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

from whylight.artifact import Picture
from whylight.errors import WhylightError
from whylight.explanation import Explanation, Prediction


@dataclass(frozen=True)
class SynthesisProgress:
    """The picture of a target is at step `step` of `total_steps`; `losses` are the terms of its objective, by name."""

    target_index: int
    step: int
    total_steps: int
    losses: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SynthesisPreview:
    """What there was to see of a target at a step."""

    target_index: int
    step: int
    picture: Picture


@dataclass(frozen=True)
class SynthesisResult:
    """What was made for a target, and what the model answers when it sees it.

    `explanation.picture` is the picture; `explanation.target_score` is what it reaches.
    """

    target_index: int
    predictions: tuple[Prediction, ...]
    explanation: Explanation


@dataclass(frozen=True)
class SynthesisFailure:
    """Why nothing was made for a target, while others of the call have their results."""

    target_index: int
    error: WhylightError


@dataclass(frozen=True)
class InspectionProgress:
    """An inspection is at step `step` of `total_steps`."""

    step: int
    total_steps: int


@dataclass(frozen=True)
class InspectionResult:
    """What an inspection found; `explanation.artifacts` are under the names that the method gives them."""

    explanation: Explanation


SynthesisEvent: TypeAlias = SynthesisProgress | SynthesisPreview | SynthesisResult | SynthesisFailure
InspectionEvent: TypeAlias = InspectionProgress | InspectionResult
