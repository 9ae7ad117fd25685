"""What a source of models is and gives: the contract with the plugins that offer them; imports torch for types only."""

from __future__ import annotations

import abc
import difflib
import importlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from whylight.errors import InvalidInput, NotFound
from whylight.models.companion import Companion
from whylight.models.transform import Transform

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class OpenedModel:
    """A module as its source gives it, how pictures are prepared for it, and the labels of its classes if known.

    `companions` are what it takes besides the picture, by the names of its arguments. `output`, `latent` and
    `last_spatial` stand where the operator's configuration says nothing of them.
    """

    module: nn.Module
    transform: Transform
    labels: tuple[str, ...] = ()
    companions: Mapping[str, Companion] = field(default_factory=dict)
    output: str | None = None
    latent: str | None = None
    last_spatial: str | None = None


class ModelSource(abc.ABC):
    """Opens models by name. Made once without arguments; keep the import of heavy libraries inside `open`."""

    scheme: ClassVar[str]
    """What stands before the colon, as ``torchvision`` in ``torchvision:resnet50``."""

    @abc.abstractmethod
    def open(self, name: str, *, pretrained: bool) -> OpenedModel:
        """Return the model `name`, with the source's own weights if `pretrained`, else with any.

        Raises:
            NotFound: there is no model of this name (reason MODEL_NOT_FOUND), with close matches.
            InvalidInput: the weights, or a library that is needed, cannot be had; the message says which.
        """

    def names(self) -> Iterable[str]:
        """Return the names that are known, by which a caller who forgot the scheme is put right; none if too many."""
        return ()


class PythonSource(ModelSource):
    """Calls a factory of the operator's own: ``python:package.module:factory``.

    The factory takes no arguments and returns an `OpenedModel`, or an `nn.Module` that takes RGB in 0..1 at 224x224.
    """

    scheme = "python"

    def open(self, name: str, *, pretrained: bool) -> OpenedModel:
        """Import the module and call the factory; the weights are its own affair."""
        module_name, _, attribute = name.partition(":")
        if not module_name or not attribute:
            raise InvalidInput(f"python:{name}: write python:package.module:factory", field="source")
        try:
            factory = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as error:
            raise NotFound(f"python:{name}: {error}", reason="MODEL_NOT_FOUND", field="source") from error
        made = factory()
        return made if isinstance(made, OpenedModel) else OpenedModel(made, Transform.plain((224, 224)))


def unplaced_name(name: str, sources: Mapping[str, type[ModelSource]]) -> NotFound:
    """Return the error of a model's name without a scheme, which says what the caller may have meant."""
    known = {scheme: list(source().names()) for scheme, source in sources.items()}
    meant = [f"{scheme}:{name}" for scheme, names in known.items() if name in names]
    if not meant:
        everything = {each: f"{scheme}:{each}" for scheme, names in known.items() for each in names}
        meant = [everything[close] for close in difflib.get_close_matches(name, everything, 2, 0.8)]
    if meant:
        hint = f"did you mean {' or '.join(repr(each) for each in sorted(meant))}?"
    else:
        hint = f"names begin with one of {', '.join(f'{scheme}:' for scheme in sorted(sources))}"
    return NotFound(f"{name!r} says not where it comes from; {hint}", reason="MODEL_NOT_FOUND", field="model")
