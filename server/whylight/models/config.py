"""What an operator says of a model that is to be served; knows neither how it is loaded nor torch."""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field

from whylight.limits import COMPANIONS
from whylight.models.companion import Companion

Precision: TypeAlias = Literal["float32", "bfloat16", "float16"]


class ModelConfig(BaseModel):
    """One model: where it comes from, its weights, and how it is run."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1, max_length=128, description="Name under which it is served.")
    source: str = Field(
        pattern=r"^[a-z][a-z0-9_-]*:.+$",
        description="Where it comes from: torchvision:resnet50, timm:NAME, demo:efficientnet-lite0, "
        "python:package.module:factory.",
    )
    weights: str = Field(
        "default",
        description="'default' (the source's own), 'random:SEED', or a path to .safetensors, .pt or .pth (a state "
        "dict; pickled objects are refused).",
    )
    digest: str | None = Field(
        None,
        pattern="^sha256:[0-9a-f]{64}$",
        description="Digest that the weights must have, as the catalog shows it; a model with others is not loaded.",
    )
    labels: str | None = Field(None, description="Path of a text file with one label a line, or a JSON list.")
    precision: Precision = Field(
        "float32",
        description="Precision up to the last layer with maps; what is behind it, and all map arithmetic, is float32.",
    )
    channels_last: Literal["auto"] | bool = Field(
        "auto", description="Memory layout; 'auto' takes channels_last if it agrees with the contiguous one to 1e-4."
    )
    fold_batch_norm: bool = Field(
        False, description="Multiply batch normalisation into the convolution before it. Outputs change by rounding."
    )
    compile: bool = Field(False, description="Run through torch.compile. The first calls take long.")
    output: str | None = Field(
        None, description="Which part of a tuple, dict or dataclass output is explained, such as 'logits', '0', 'out'."
    )
    latent: str | None = Field(None, description="Which part of the output holds latent variables [N, Z].")
    boxes: Literal["pixels", "fractions"] | None = Field(
        None,
        description="The output is detections [K, 4 + classes]: corners (left, top, right, bottom) in pixels or in "
        "fractions of the input, then a score for each class. Torchvision's detectors need not say so.",
    )
    last_spatial: str | None = Field(
        None, description="Layer that 'last-spatial' stands for, where the one that is found is wrong, as in detectors."
    )
    companions: dict[str, Companion] = Field(
        {}, max_length=COMPANIONS, description="What it takes besides the picture, by the names of its arguments."
    )
    input_size: tuple[int, int] | None = Field(None, description="(height, width), where the source's is not wanted.")
    memory_budget_bytes: int | None = Field(
        None, gt=0, description="How much a chunk may take: 2 GiB on a CPU, half of the free memory on a GPU."
    )
