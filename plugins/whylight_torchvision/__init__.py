"""Offers torchvision's classification models as ``torchvision:NAME``; imports torchvision only when one is opened.

``torchvision:NAME@WEIGHTS``, such as ``torchvision:mobilenet_v2@IMAGENET1K_V1``, takes other weights than the default
ones, with the preparation that belongs to them.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import ClassVar

import whylight


class TorchvisionSource(whylight.ModelSource):
    """Any classification model of `torchvision.models`, with the preparation and labels of its weights."""

    scheme: ClassVar[str] = "torchvision"

    def open(self, name: str, *, pretrained: bool) -> whylight.OpenedModel:
        """Build the model; torchvision's own loader fetches the weights, or finds them in its cache.

        Raises:
            NotFound: torchvision has no classification model, or no weights, of this name.
            InvalidInput: the weights cannot be fetched.
        """
        import torchvision

        name, _, chosen = name.partition("@")

        # Only the module whose name ends there: the list also has detection, segmentation and video models.
        known = torchvision.models.list_models(module=torchvision.models)
        if name not in known:
            close = ", ".join(difflib.get_close_matches(name, known, 3))
            raise whylight.NotFound(
                f"torchvision has no classification model {name!r}" + (f"; close ones are {close}" if close else ""),
                reason="MODEL_NOT_FOUND",
                field="source",
            )
        offered = torchvision.models.get_model_weights(name)
        if chosen and chosen not in offered.__members__:
            raise whylight.NotFound(
                f"torchvision:{name} has no weights {chosen!r}; there are {', '.join(offered.__members__)}",
                reason="MODEL_NOT_FOUND",
                field="source",
            )
        weights = offered[chosen] if chosen else offered.DEFAULT
        extra = {"init_weights": False} if name in ("googlenet", "inception_v3") and not pretrained else {}
        try:
            module = torchvision.models.get_model(name, weights=weights if pretrained else None, **extra)
        except OSError as error:
            raise whylight.InvalidInput(
                f"the weights of torchvision:{name} cannot be fetched from {weights.url}: {error}. "
                "Without a network, put the file into torch's hub cache, or set weights to a file or random:SEED",
                field="weights",
            ) from error
        preset = weights.transforms()
        crop, resize = int(preset.crop_size[0]), int(preset.resize_size[0])
        transform = whylight.Transform(
            resize=resize,
            crop=(crop, crop),
            interpolation=preset.interpolation.value,
            mean=tuple(preset.mean),
            std=tuple(preset.std),
        )
        return whylight.OpenedModel(module, transform, tuple(weights.meta["categories"]))

    def names(self) -> Iterable[str]:
        """Return the names of torchvision's classification models."""
        import torchvision

        known: list[str] = torchvision.models.list_models(module=torchvision.models)
        return known


@whylight.hookimpl
def whylight_models() -> Iterable[type[whylight.ModelSource]]:
    """Offer the source."""
    return [TorchvisionSource]
