"""What a source of models is and gives: the contract with the plugins that offer them; imports torch for types only."""

from __future__ import annotations

import abc
import importlib
from collections.abc import Mapping
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

    `companions` are what it takes besides the picture, by the names of its arguments.
    """

    module: nn.Module
    transform: Transform
    labels: tuple[str, ...] = ()
    companions: Mapping[str, Companion] = field(default_factory=dict)


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
