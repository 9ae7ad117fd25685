"""What a token may be good for; knows no token and no call."""

from __future__ import annotations

import enum


class Scope(str, enum.Enum):
    """One kind of thing to ask for. None includes another: a token has all that it names, and no more."""

    EXPLAIN = "explain"
    """Explanations, evaluations, syntheses, inspections; inference through the Open Inference Protocol."""

    CATALOG = "catalog"
    """What there is to explain with: methods, models, plugins, limits; the services' descriptions."""

    ADMIN = "admin"
    """Loading and unloading of models."""

    METRICS = "metrics"
    """Numbers about the server itself."""
