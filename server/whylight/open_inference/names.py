"""Finds what a model name of the protocol stands for, ``MODEL.METHOD`` or ``MODEL``; knows the catalog, asks nobody."""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import dataclass

from whylight.errors import NotFound, Unsupported
from whylight.v1 import catalog_pb2
from whylight.worker.v1 import worker_pb2

SEPARATOR = "."

MODEL_VERSION = "1"
"""Version of what is asked without a method: a served model never changes, its digest tells it from another."""


@dataclass(frozen=True)
class Asked:
    """A served model, and the method that its name ends in, if it does."""

    model: catalog_pb2.Model
    method: catalog_pb2.Method | None

    @property
    def name(self) -> str:
        """The name, as the protocol has it."""
        return f"{self.model.name}{SEPARATOR}{self.method.name}" if self.method else self.model.name

    @property
    def version(self) -> str:
        """Version of the method: it changes when its numbers change."""
        return self.method.version if self.method else MODEL_VERSION

    @property
    def obstacle(self) -> str:
        """Why it cannot be asked just now, or ever; empty when it can."""
        if self.model.state not in _READY:
            return f"the model is {catalog_pb2.ModelState.Name(self.model.state).removeprefix('MODEL_STATE_').lower()}"
        lacking = sorted(set(self.method.needs) - set(self.model.capabilities)) if self.method else []
        return f"the model lacks {', '.join(lacking)}" if lacking else ""


_READY = (catalog_pb2.MODEL_STATE_READY, catalog_pb2.MODEL_STATE_UNSPECIFIED)


def find(catalog: worker_pb2.Ready, name: str, version: str, *, field: str = "model_name") -> Asked:
    """Return what a name stands for. Both models and methods may have dots in their names: the longest model wins.

    Raises:
        NotFound: there is no such model, method, or version.
        Unsupported: the method explains no inputs.
    """
    models = {model.name: model for model in catalog.models}
    if name in models:
        asked = Asked(models[name], None)
    else:
        # Model by model and not dot by dot: strangers may ask, and a name of nothing but dots takes hours that way.
        heads = [model for model in models if name.startswith(f"{model}{SEPARATOR}")]
        if not heads:
            raise _not_found("model", name, models, field)
        head = max(heads, key=len)
        asked = Asked(models[head], find_method(catalog, name[len(head) + 1 :], field=field))
    if version not in ("", asked.version):
        raise NotFound(
            f"there is no version {version[:256]!r} of {asked.name!r}; there is {asked.version!r}",
            reason="MODEL_NOT_FOUND",
            field=field.replace("name", "version"),
        )
    return asked


def find_method(catalog: worker_pb2.Ready, name: str, *, field: str) -> catalog_pb2.Method:
    """Return the method of this name.

    Raises:
        NotFound: there is none.
        Unsupported: it explains no inputs.
    """
    methods = {method.name: method for method in catalog.methods}
    if name not in methods:
        raise _not_found("method", name, methods, field)
    if methods[name].kind != catalog_pb2.METHOD_KIND_ATTRIBUTION:
        raise Unsupported(
            f"{name!r} explains no inputs; whylight.v1.ExplanationService has the calls Synthesize and Inspect",
            reason="METHOD_UNSUPPORTED",
            field=field,
        )
    return methods[name]


def everything(catalog: worker_pb2.Ready) -> Iterator[Asked]:
    """Yield each model, and behind it each attribution that could be asked of it."""
    for model in catalog.models:
        yield Asked(model, None)
        for method in catalog.methods:
            if method.kind == catalog_pb2.METHOD_KIND_ATTRIBUTION:
                yield Asked(model, method)


def _not_found(
    kind: str, name: str, known: dict[str, catalog_pb2.Model] | dict[str, catalog_pb2.Method], field: str
) -> NotFound:
    close = difflib.get_close_matches(name[:256], known) or difflib.get_close_matches(
        name[:256].rpartition(".")[0], known
    )
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    return NotFound(
        f"there is no {kind} {name[:256]!r}{hint}",
        reason=f"{kind.upper()}_NOT_FOUND",
        field=field,
        metadata={kind: name[:256]},
    )
