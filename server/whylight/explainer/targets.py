"""Checks targets against a model before any run, and gives their errors the caller's field paths; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from whylight.errors import InvalidInput, WhylightError
from whylight.limits import Limits
from whylight.target import Target

if TYPE_CHECKING:
    from whylight.models import Model


def check_targets(model: Model, targets: Sequence[Target], limits: Limits) -> None:
    """Refuse targets that the model has not, so that they never enter a batch. Field paths begin ``input.targets[j]``.

    Raises:
        InvalidInput: TARGET_INVALID, TOO_MANY_TARGETS.
        NotFound: LABEL_NOT_FOUND, LAYER_NOT_FOUND.
        Unsupported: TARGET_UNSUPPORTED.
    """
    if len(targets) > limits.targets:
        raise InvalidInput(
            f"{len(targets)} targets are more than {limits.targets}", reason="TOO_MANY_TARGETS", field="input.targets"
        )
    for place, target in enumerate(targets):
        try:
            model.check_target(target)
        except WhylightError as error:
            raise located(error, f"input.targets[{place}]") from None


def located(error: WhylightError, field: str, method: int = 0) -> WhylightError:
    """Put `field` in place of the "target" that an error of the subject names, and "options" below their method."""
    return error.locate({"options": f"methods[{method}].options", "target.label": field, "target": field})
