"""Every extension point of the server: the hooks that a plugin may implement; knows nothing of how they are called."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from whylight.method import Method
    from whylight.metric import Metric
    from whylight.models.source import ModelSource

PROJECT = "whylight"
"""Name of the pluggy project and of the entry-point group."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


class Hookspecs:
    """The hooks, in the order in which the server calls them. Asked once at start; every item has a unique name."""

    @hookspec
    def whylight_methods(self) -> Iterable[type[Method]]:
        """Return the explanation methods that this plugin offers.

        Example::

            @whylight.hookimpl
            def whylight_methods():
                return [GradCAM]
        """
        return ()

    @hookspec
    def whylight_models(self) -> Iterable[type[ModelSource]]:
        """Return sources of models, one for each scheme, as ``torchvision`` in ``torchvision:resnet50``.

        Example::

            @whylight.hookimpl
            def whylight_models():
                return [TorchvisionSource]
        """
        return ()

    @hookspec
    def whylight_metrics(self) -> Iterable[type[Metric]]:
        """Return metrics, which tell how far the maps of methods can be trusted.

        Example::

            @whylight.hookimpl
            def whylight_metrics():
                return [Insertion]
        """
        return ()
