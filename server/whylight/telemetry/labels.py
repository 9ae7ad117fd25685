"""Values of labels, of which there must be few: names of the catalog, and constants; knows no metric.

Whatever else a client sends is one value more, and no series of its own.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence

from whylight.worker.v1 import worker_pb2

UNKNOWN = "unknown"
"""A model or a method that this server has not, or that was not said."""

SEVERAL = "several"
"""The method of work that has more than one."""

OTHER = "OTHER"
"""A reason beyond those that there is room for."""

REASONS = 128
"""Different reasons that are told apart. Ours are fewer; those of plugins may be made up for each error."""

_WELL_FORMED = re.compile(r"[A-Z][A-Z0-9_]{0,62}")


class Names:
    """Which models and methods there are, as the catalog has them."""

    def __init__(self, catalog: Callable[[], worker_pb2.Ready | None]) -> None:
        self._catalog = catalog
        self._models: set[str] = set()
        self._methods: set[str] = set()

    def model(self, name: str) -> str:
        """Return the label of a model."""
        if name not in self._models:
            self._learn()
        return name if name in self._models else UNKNOWN

    def method(self, names: Sequence[str]) -> str:
        """Return the label of the methods of some work."""
        if len(names) != 1:
            return SEVERAL if names else UNKNOWN
        if names[0] not in self._methods:
            self._learn()
        return names[0] if names[0] in self._methods else UNKNOWN

    def _learn(self) -> None:
        catalog = self._catalog()
        if catalog is not None:
            self._models.update(model.name for model in catalog.models)
            self._methods.update(method.name for method in catalog.methods)


class Reasons:
    """The reasons of errors. Empty for none."""

    def __init__(self) -> None:
        self._known: set[str] = {""}

    def reason(self, reason: str) -> str:
        """Return the label of a reason."""
        if reason in self._known:
            return reason
        if len(self._known) <= REASONS and _WELL_FORMED.fullmatch(reason):
            self._known.add(reason)
            return reason
        return OTHER


def outcome(code: str, reason: str = "") -> str:
    """Return what a status means for who runs the server: ok, invalid, rejected, cancelled, late or failed."""
    if reason in _NOT_TRIED:
        return "rejected"
    return _OUTCOMES.get(code, "failed")


def worst(statuses: Iterable[tuple[str, str]]) -> tuple[str, str]:
    """Return the worst outcome of several statuses, code and reason, and its reason."""
    return max(((outcome(*status), status[1]) for status in statuses), key=lambda one: _ORDER.index(one[0]))


_ORDER = ("ok", "invalid", "cancelled", "rejected", "late", "failed")

_NOT_TRIED = frozenset({"DRAINING", "MODEL_LOADING"})

_OUTCOMES = {
    "OK": "ok",
    "CANCELLED": "cancelled",
    "DEADLINE_EXCEEDED": "late",
    "INVALID_ARGUMENT": "invalid",
    "NOT_FOUND": "invalid",
    "FAILED_PRECONDITION": "invalid",
    "UNIMPLEMENTED": "invalid",
    "RESOURCE_EXHAUSTED": "rejected",
    "UNAUTHENTICATED": "rejected",
    "PERMISSION_DENIED": "rejected",
}
