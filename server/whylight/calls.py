"""How a caller names a method or a metric with options and a seed of its own; knows neither."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class MethodCall:
    """A method with its own options and seed, for requests with several methods."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None


@dataclass(frozen=True)
class MetricCall:
    """A metric with its own options and seed."""

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
