"""[[models]]: what is served, and by which workers; loads nothing."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from whylight.engine.model_table import ModelChoice
from whylight.models.config import ModelConfig

_OWN = {"workers", "load"}


class ServedModel(ModelConfig):
    """One model: where it comes from, its weights, how it is run, and by which workers."""

    workers: list[Annotated[int, Field(ge=0)]] | None = Field(
        None,
        min_length=1,
        description="Numbers of the workers that have it: places in worker.devices, from 0. Unset: all.",
    )
    load: bool = Field(
        True,
        description="Whether it is loaded at the start. If not, an administrator loads it (`whylight models load`).",
    )

    def choice(self, workers: int) -> ModelChoice:
        """Return the model as the engine knows it, of a server with so many workers."""
        fields = self.model_dump(mode="json", exclude=_OWN)
        numbers = range(workers) if self.workers is None else sorted(set(self.workers))
        return ModelChoice(self.name, self.source, fields, tuple(numbers), self.load)
