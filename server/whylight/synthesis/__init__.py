"""Making images by optimisation: parts that a method puts together, and the loop that runs them; knows no method.

An image is held by a `Parametrisation`, seen by the model through a `Robustness`, judged by `Term`s, each a loss for
every image, changed by an optimiser and, now and then, by an `Operator`. Everything works on a batch of images that do
not meet: each gets the bits that it would get alone.
"""

from whylight.synthesis.operators import ClipSmallContribution, ClipSmallNorm, GaussianBlur, Operator, StayNear
from whylight.synthesis.optimise import Step, optimise
from whylight.synthesis.parametrisation import Code, Fourier, Parametrisation, Phase, Pixels, spectrum_scale
from whylight.synthesis.regularisers import L1, L2, ImageDistance, TotalVariation
from whylight.synthesis.robustness import Robustness
from whylight.synthesis.term import Sight, Term
from whylight.synthesis.terms import (
    CosineSimilarity,
    Excitation,
    FeatureDistance,
    GramDistance,
    LogDensity,
    LogProbability,
    Score,
)

__all__ = [
    "L1",
    "L2",
    "ClipSmallContribution",
    "ClipSmallNorm",
    "Code",
    "CosineSimilarity",
    "Excitation",
    "FeatureDistance",
    "Fourier",
    "GaussianBlur",
    "GramDistance",
    "ImageDistance",
    "LogDensity",
    "LogProbability",
    "Operator",
    "Parametrisation",
    "Phase",
    "Pixels",
    "Robustness",
    "Score",
    "Sight",
    "StayNear",
    "Step",
    "Term",
    "TotalVariation",
    "optimise",
    "spectrum_scale",
]
