"""The name of one version of a model; knows nothing of what it is a version of."""

from __future__ import annotations

from typing import NamedTuple


class Version(NamedTuple):
    """One load of a model: a reload makes another. No two batches mix versions, and no answer does."""

    model: str
    generation: int
