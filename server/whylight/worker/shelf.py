"""The models of a worker, each in every version that it has at the moment; knows no frames and no work."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any

import torch

from whylight.errors import NotFound, Overloaded, Unavailable, Unsupported, WhylightError
from whylight.explainer.lacking import free_memory, is_out_of_memory
from whylight.models import ModelConfig, open_model
from whylight.worker.measured import Measured

if TYPE_CHECKING:
    from whylight.models import Model, ModelSource

_log = logging.getLogger(__name__)


class ModelShelf:
    """Versions of models, by name and generation. Loads may run beside any number of readers."""

    def __init__(
        self,
        sources: Mapping[str, type[ModelSource]],
        device: torch.device,
        warm_up: Callable[[Model], None] = lambda model: None,
        measured: Measured | None = None,
    ) -> None:
        """Open models from `sources` on `device`; each is given to `warm_up` before anybody else has it.

        What is in `measured` already is not measured again, and what is measured is put there.
        """
        self._sources = sources
        self._device = device
        self._warm_up = warm_up
        self._measured = measured or Measured()
        self._versions: dict[str, dict[int, Model]] = {}
        self._lock = threading.Lock()

    def load(self, fields: Mapping[str, Any], generation: int = 1) -> Model:
        """Open, examine and warm up a model, and put it beside the versions of it that there are.

        Raises:
            WhylightError: it cannot be opened, or not be run; nothing of it is left.
            ValueError: the fields are none of a ModelConfig, or this very version is here already.
        """
        config = ModelConfig.model_validate(fields)
        with self._lock:
            others = dict(self._versions.get(config.name, {}))
        if generation in others:
            raise ValueError(f"two models have the name {config.name!r}")
        try:
            model = self._open(config, others.values())
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            error.__traceback__ = None  # with it go the tensors of the failed load
            free_memory()
            raise Overloaded(
                f"the device {self._device} has no memory for another version of {config.name!r}",
                reason="OUT_OF_MEMORY",
            ) from None
        with self._lock:
            self._versions.setdefault(config.name, {})[generation] = model
        _log.info("serves %s (%s, version %d) on %s", config.name, config.source, generation, self._device)
        return model

    def _open(self, config: ModelConfig, others: Collection[Model]) -> Model:
        model = open_model(config, self._sources, self._device)
        if others and config.memory_budget_bytes is None:
            # What is free now is what is left beside the version that is to go: no measure for this one's life.
            model.budget = max(other.budget for other in others)
        self._measured.measure(model)  # here rather than in the first call that asks
        self._warm_up(model)
        return model

    def forget(self, name: str, generation: int) -> None:
        """Take a version away. Its memory is free when whoever works on it has ended."""
        with self._lock:
            versions = self._versions.get(name, {})
            versions.pop(generation, None)
            if not versions:
                self._versions.pop(name, None)
        gc.collect()
        free_memory()

    def models(self) -> dict[str, Model]:
        """Return the newest version of each model, by name; a copy, which stays as it is."""
        with self._lock:
            return {name: versions[max(versions)] for name, versions in self._versions.items()}

    def generations(self) -> dict[str, int]:
        """Return which version is the newest one of each model."""
        with self._lock:
            return {name: max(versions) for name, versions in self._versions.items()}

    def models_beside(self, generations: Mapping[str, int]) -> dict[str, Model]:
        """Return the models as work on these versions of some of them sees them; the others are the newest.

        0 means the newest version. A name that there is not is for the caller to refuse.

        Raises:
            Unavailable: a version is not here, or not any more.
        """
        models = self.models()
        for name, generation in generations.items():
            if name not in models or not generation:
                continue
            with self._lock:
                version = self._versions.get(name, {}).get(generation)
            if version is None:
                raise Unavailable(
                    f"version {generation} of the model {name!r} is not loaded here",
                    reason="MODEL_LOADING",
                    retry_after=1.0,
                )
            models[name] = version
        return models


def load_error(error: BaseException, name: str) -> WhylightError:
    """Return why a model could not be loaded, for the operator; what nobody expected is in the log in full."""
    if isinstance(error, WhylightError):
        return error
    if isinstance(error, ValueError):
        return Unsupported(str(error), reason="CONFIGURATION_INVALID")
    if isinstance(error, FileNotFoundError):
        return NotFound(str(error), reason="MODEL_NOT_FOUND")
    _log.error("the model %r could not be loaded", name, exc_info=error)
    return Unsupported(f"{type(error).__name__}: {error}", reason="MODEL_LOAD_FAILED")
