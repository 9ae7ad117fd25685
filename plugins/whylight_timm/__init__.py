"""Offers timm's models as ``timm:NAME``; imports timm only when one is opened, and says so if it is missing."""

from __future__ import annotations

import difflib
import importlib.util
import math
from collections.abc import Iterable
from typing import Any, ClassVar

import whylight


class TimmSource(whylight.ModelSource):
    """Any model of timm, with the preparation of its default configuration."""

    scheme: ClassVar[str] = "timm"

    def open(self, name: str, *, pretrained: bool) -> whylight.OpenedModel:
        """Build the model; timm's own loader fetches the weights.

        Raises:
            NotFound: timm has no model of this name.
            InvalidInput: timm is not installed, or the weights cannot be fetched.
        """
        try:
            import timm
            from timm.data.config import resolve_model_data_config
        except ImportError as error:
            raise whylight.InvalidInput(
                f"timm:{name} needs timm: pip install 'whylight[timm]' ({error})", field="source"
            ) from error
        if not timm.is_model(name.partition(".")[0]):
            close = ", ".join(difflib.get_close_matches(name, timm.list_models(), 3))
            raise whylight.NotFound(
                f"timm has no model {name!r}" + (f"; close ones are {close}" if close else ""),
                reason="MODEL_NOT_FOUND",
                field="source",
            )
        try:
            module = timm.create_model(name, pretrained=pretrained)
        except Exception as error:
            if not pretrained:
                raise
            raise whylight.InvalidInput(
                f"the weights of timm:{name} cannot be fetched: {error}. "
                "Without a network, set weights to a file or random:SEED",
                field="weights",
            ) from error
        labels = _imagenet_labels() if getattr(module, "num_classes", 0) == 1000 else ()
        config: dict[str, Any] = resolve_model_data_config(module)  # type: ignore[no-untyped-call]
        return whylight.OpenedModel(module, transform_of(config), labels)

    def names(self) -> Iterable[str]:
        """Return the names of timm's models, none if timm is not installed."""
        if importlib.util.find_spec("timm") is None:
            return ()
        import timm

        known: list[str] = timm.list_models()
        return known


def transform_of(config: dict[str, Any]) -> whylight.Transform:
    """Return timm's preparation for evaluation (`timm.data.transforms_factory.transforms_imagenet_eval`)."""
    _, height, width = config["input_size"]
    enlarged = math.floor(height / config["crop_pct"]), math.floor(width / config["crop_pct"])
    exact = config.get("crop_mode", "center") == "squash" or height != width
    return whylight.Transform(
        resize=enlarged if exact else enlarged[0],
        crop=(height, width),
        interpolation="bilinear" if config["interpolation"] == "random" else config["interpolation"],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )


def _imagenet_labels() -> tuple[str, ...]:
    """Return the names that torchvision gives the classes of ImageNet-1k, so that all sources speak of the same."""
    from torchvision.models import MobileNet_V2_Weights

    return tuple(MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"])


@whylight.hookimpl
def whylight_models() -> Iterable[type[whylight.ModelSource]]:
    """Offer the source."""
    return [TimmSource]
