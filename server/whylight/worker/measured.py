"""What loads of models have measured, kept for the next load of the very same thing; knows no frames and no work."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from whylight.models.probe import digest_of_answers
from whylight.ops import native_status
from whylight.subject.invariance import found_sizes, put_sizes
from whylight.worker.catalog import library_versions

if TYPE_CHECKING:
    from whylight.models import Model

KEPT = 64
"""How many measurements are kept, the last ones that were made or used."""

_log = logging.getLogger(__name__)


class Measurement(BaseModel):
    """What was measured of a model.

    `answers` is the digest of its answers to one input; `sizes` says to what size its convolutions fill up batches, as
    `whylight.subject.invariance.found_sizes` has it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    batch_invariant: bool
    answers: str
    sizes: dict[str, list[list[Any]]]


class Measured:
    """Measurements as JSON, by the fingerprint of what was measured. To make one is most of what a load costs.

    A worker tells the front end what it knows, and one that is started in its place is told it.
    """

    def __init__(self, known: Mapping[str, str] | None = None) -> None:
        self._known = dict(known or {})

    @property
    def known(self) -> dict[str, str]:
        """What is known by now; a copy, which stays as it is."""
        return dict(self._known)

    def measure(self, model: Model) -> None:
        """Find out whether a model is batch-invariant, or take over what is known of one with the same fingerprint.

        That is taken over only if the model gives one input the answers that it had then: a file of code may have been
        changed as well. A model that torch compiles is always measured, for that has it compiled.
        """
        key = fingerprint(model)
        text = self._known.pop(key, "")
        if not text or model.compiled_from is not None or not _taken_over(model, text):
            invariant = model.batch_invariant
            made = Measurement(
                batch_invariant=invariant, answers=digest_of_answers(model), sizes=found_sizes(model.module)
            )
            text = made.model_dump_json()
        self._known[key] = text
        while len(self._known) > KEPT:
            del self._known[next(iter(self._known))]


def fingerprint(model: Model) -> str:
    """Return what decides whether batches change bits, as ``sha256:...``.

    That is weights, layers and their settings, how they are run, the libraries and the device.
    """
    facts = {
        "source": model.source,
        "weights": model.digest,
        "module": repr(model.module),
        "layers": [(layer.name, layer.type, layer.output_shape) for layer in model.layers],
        "input": (model.input_channels, *model.input_size),
        "companions": repr(model.companions),
        "selected": (model.output_selector, model.last_spatial, model.boxes, model.detection_limit),
        "run": (model.precision, str(model.dtype), model.channels_last, model.compiled_from is not None),
        "functional": model.functional,
        "libraries": library_versions(),
        "native operators": native_status().description,
        "torch": torch.__config__.show(),
        "processor": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": f"{model.device} {_properties(model.device)}",
    }
    return f"sha256:{hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()}"


def _taken_over(model: Model, text: str) -> bool:
    """Give a model what was measured, or leave it as it was and say that this is not the same."""
    try:
        measurement = Measurement.model_validate_json(text)
    except ValidationError as error:
        _log.warning("what was measured of %s cannot be read: %s", model.name, error)
        return False
    before = found_sizes(model.module)
    put_sizes(model.module, measurement.sizes)
    if digest_of_answers(model) != measurement.answers:
        _log.info("%s gives other answers than when it was measured", model.name)
        put_sizes(model.module, before)
        return False
    model.batch_invariant = measurement.batch_invariant
    _log.info("takes over what was measured of %s before", model.name)
    return True


def _properties(device: torch.device) -> str:
    return str(torch.cuda.get_device_properties(device)) if device.type == "cuda" else ""
