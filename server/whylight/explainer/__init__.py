"""Explaining: from a checked plan and decoded inputs to answers; knows neither requests nor processes."""

from whylight.decode import DecodedInput
from whylight.explainer.explainer import Explainer
from whylight.explainer.plan import ExplanationPlan
from whylight.explainer.progress import Progress, Watcher

__all__ = ["DecodedInput", "Explainer", "ExplanationPlan", "Progress", "Watcher"]
