"""Metrics of maps: how far each of them can be trusted; one to a file."""

from __future__ import annotations

import whylight
from whylight_metrics.average_drop import AverageDrop
from whylight_metrics.average_increase import AverageIncrease
from whylight_metrics.deletion import Deletion
from whylight_metrics.insertion import Insertion
from whylight_metrics.max_sensitivity import MaxSensitivity
from whylight_metrics.pointing_game import PointingGame
from whylight_metrics.randomisation import Randomisation
from whylight_metrics.road import ROAD


@whylight.hookimpl
def whylight_metrics() -> list[type[whylight.Metric]]:
    """Offer the metrics of this package."""
    return [Insertion, Deletion, ROAD, AverageDrop, AverageIncrease, PointingGame, MaxSensitivity, Randomisation]
