"""Runs a model as its first calls would, so that none of them pays for what is done once; knows no frames."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from whylight.errors import WhylightError
from whylight.explainer import Explainer
from whylight.models.probe import example_companions, example_inputs
from whylight.outputs import MapOutput
from whylight.subject import CancelToken

if TYPE_CHECKING:
    from whylight.models import Model

_log = logging.getLogger(__name__)

METHODS = ("grad-cam", "saliency")
"""What is asked for, the first of them that is here and suits the model: forward, backward, and a map."""


def warm_up(explainer: Explainer, model: Model, batches: Sequence[int]) -> None:
    """Explain batches of so many inputs of the model's own size, from an array to a map, the smallest first.

    A model that suits none of the methods, or whose output has no classes to explain, makes plain passes.

    Raises:
        WhylightError, RuntimeError: the model does not run.
    """
    for size in sorted(set(batches)):
        for method in METHODS:
            if _explained(explainer, model, method, size):
                break
        else:
            _passed(model, size)


def _explained(explainer: Explainer, model: Model, method: str, size: int) -> bool:
    companions = {name: companion.usual() for name, companion in model.companions.items()}
    inputs: Any = example_inputs(size, model.input_channels, model.input_size, torch.float32).numpy()
    try:
        plan = explainer.plan_methods(model.name, [(method, {})], (MapOutput(),), models={model.name: model})
        decoded = [explainer.decode(plan, one, companions) for one in inputs]
    except WhylightError as error:
        _log.debug("%s is not warmed up by %s: %s", model.name, method, error)
        return False
    seeds = [(0,) * len(plan.stochastic)] * size
    outcomes = explainer.explain(plan, decoded, [()] * size, seeds, [CancelToken() for _ in range(size)])
    failed = next((outcome for outcome in outcomes if isinstance(outcome, WhylightError)), None)
    if failed is None:
        return True
    if failed.reason == "OUT_OF_MEMORY":
        raise failed
    _log.info("%s is not warmed up by %s: %s", model.name, method, failed)
    return False


def _passed(model: Model, size: int) -> None:
    inputs = example_inputs(size, model.input_channels, model.input_size, model.dtype).to(model.device)
    with torch.no_grad():
        model.run(inputs, example_companions(model.companions, size, model.dtype, model.device))
