"""Makes the pictures of docs/synthesis-gallery.md: every method of synthesis, on real models and photos; knows no page.

    python scripts/make_synthesis_gallery.py [METHOD ...]

Without names, all of them: some minutes on a processor. Needs what scripts/fetch_assets.py fetches, for the textures,
the style and the faces. Pictures are 192 pixels wide, but for the digits, and made with fixed seeds; another machine's
may differ a little.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import skimage.data
import torch
import torch.nn.functional as F
import torchvision
from digit_models import classifier, density
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

from whylight.models import Model, ModelConfig, Transform, open_model, wrap_module
from whylight.plugins import Plugins
from whylight.testing import run_synthesis
from whylight_demo import DemoSource

ROOT = Path(__file__).parent.parent
PICTURES = ROOT / "docs" / "images" / "synthesis"
ASSETS = Path(os.environ.get("WHYLIGHT_ASSETS", ROOT / "cache" / "assets"))
SIDE, GAP = 192, 6


@cache
def methods() -> Mapping[str, Any]:
    """Return the methods by name."""
    plugins = Plugins()
    plugins.load()
    return {name: offered.method for name, offered in plugins.methods.items()}


@cache
def demo() -> Model:
    """Return the demo model, EfficientNet-lite0."""
    return open_model(ModelConfig(name="demo", source="demo:efficientnet-lite0"), {"demo": DemoSource})


@cache
def squeezenet() -> Model:
    """Return SqueezeNet 1.1: plain convolutions and ReLU, which textures want."""
    net = torchvision.models.squeezenet1_1()
    net.load_state_dict(load_file(ASSETS / "squeezenet1_1.safetensors"))
    mean = (103.939, 116.779, 123.68)
    preparation = Transform((227, 227), None, mean=mean, std=(1.0,) * 3, scale=1.0, channel_order="bgr")
    return wrap_module(net.eval(), name="squeezenet", transform=preparation)


@cache
def faces() -> Model:
    """Return a DCGAN that makes faces of codes [100, 1, 1]."""
    state = load_file(ASSETS / "face_generator.safetensors")
    state = {".".join(name.split(".")[-2:]): value for name, value in state.items()}
    layers: list[nn.Module] = []
    while f"{len(layers)}.weight" in state:
        kernel, first = state[f"{len(layers)}.weight"], not layers
        stride, padding = (1, 0) if first else (2, 1)
        layers.append(nn.ConvTranspose2d(kernel.shape[0], kernel.shape[1], 4, stride, padding, bias=False))
        layers += [nn.Tanh()] if kernel.shape[1] == 3 else [nn.BatchNorm2d(kernel.shape[1]), nn.ReLU()]
    net = nn.Sequential(*layers)
    net.load_state_dict(state)
    return wrap_module(net.eval(), name="faces", transform=Transform.plain((1, 1), 100), input_size=(1, 1))


@cache
def photo(name: str) -> Tensor:
    """Return the middle of a photo of scikit-image, `[3, 192, 192]`, 0 black and 1 white."""
    picture = Image.fromarray(getattr(skimage.data, name)()).convert("RGB")
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    picture = picture.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def make(
    method: str,
    model: Model,
    options: Mapping[str, Any],
    targets: Sequence[str | None] = (None,),
    *photos: str,
    others: Sequence[Model] = (),
) -> list[Tensor]:
    """Return what a method makes, one picture for each target, and print its checks."""
    given = torch.stack([photo(name) for name in photos])[None].expand(len(targets), -1, -1, -1, -1) if photos else None
    _, made = run_synthesis(
        methods()[method], model, targets, options, pictures=given, size=(SIDE, SIDE), others=others
    )
    checks = {name: [round(float(value), 3) for value in values] for name, values in made.checks.items()}
    print(method, checks, flush=True)
    return list(made.images)


def classes() -> list[Tensor]:
    """Four classes, all as one batch."""
    options = {"steps": 96, "learning_rate": 0.015, "regularisers": [{"kind": "total-variation", "weight": 200}]}
    return make("activation-maximization", demo(), options, ["daisy", "pizza", "cellular telephone", "peacock"])


def dreams() -> list[Tensor]:
    """A photo, and what an early, a middle and a late layer see in it."""
    dreamt = [make("deepdream", demo(), {"layer": layer}, [None], "chelsea")[0] for layer in DREAMERS]
    return [photo("chelsea"), *dreamt]


DREAMERS = ("blocks.4", "blocks.8", "blocks.12")


def inversions() -> list[Tensor]:
    """A photo, and what ever later layers still know of it."""
    layers = ("stem", "blocks.4", "blocks.10")
    options = {"steps": 160, "learning_rate": 0.03, "smoothness": 0.1}
    inverted = []
    for layer in layers:
        inverted += make("feature-inversion", demo(), {**options, "layer": layer}, [None], "chelsea")
    return [photo("chelsea"), *inverted]


def textures() -> list[Tensor]:
    """Two textures, each before what was made of it."""
    cells = {"steps": 400, "learning_rate": 0.03, "layers": TEXTURE_LAYERS}
    # A grey picture drifts into colours; the first layer, before its ReLU, holds it where it is.
    bricks = {"steps": 600, "learning_rate": 0.03, "layers": ("features.0", *TEXTURE_LAYERS)}
    bricks["weights"] = (4, 2, 1, 1, 1, 1, 1, 0.5)
    pictures = []
    for name, options in (("immunohistochemistry", cells), ("brick", bricks)):
        pictures += [photo(name), *make("texture-synthesis", squeezenet(), options, [None], name)]
    return pictures


TEXTURE_LAYERS = (
    "features.1",
    "features.3.squeeze",
    "features.3",
    "features.4",
    "features.6",
    "features.7",
    "features.9",
)


def styles() -> list[Tensor]:
    """A photo in the style of three others."""
    options = {"steps": 150}
    styled = [make("style-transfer", squeezenet(), options, [None], "chelsea", style)[0] for style in STYLES]
    return [photo("chelsea"), *styled]


STYLES = ("coffee", "immunohistochemistry", "rocket")


def fooled() -> list[Tensor]:
    """Noise that is a king penguin, a photo, the same photo as a lynx, and their difference times 32."""
    (noise,) = make("fooling-image", demo(), {}, ["king penguin"])
    options = {"start": "picture", "budget": 1.9 / 255}
    (changed,) = make("fooling-image", demo(), options, ["lynx"], "chelsea")
    return [noise, photo("chelsea"), changed, 0.5 + 32 * (changed - photo("chelsea"))]


def caricatures() -> list[Tensor]:
    """Two photos, each before its caricature by a middle layer."""
    pictures = []
    for name in ("chelsea", "astronaut"):
        options = {"layer": "blocks.10", "steps": 128}
        pictures += [photo(name), *make("caricature", demo(), options, [None], name)]
    return pictures


def phases() -> list[Tensor]:
    """Four classes with the spectrum of natural images."""
    return make("maco", demo(), {"steps": 128}, ["daisy", "pizza", "cellular telephone", "peacock"])


def codes() -> list[Tensor]:
    """Four classes among the faces that a generator can make."""
    options = {"generator": "faces", "pixels": "-1..1", "learning_rate": 0.1, "weight": 0.02, "steps": 80, "jitter": 4}
    wanted = ["sunglasses", "wig", "lipstick", "bow tie"]
    return make("activation-maximization-code", demo(), options, wanted, others=[faces()])


def experts() -> list[Tensor]:
    """Ten digits, each above without, below with an expert that knows what digits look like."""
    free = {"parametrisation": "pixels", "objective": "log-probability", "jitter": 0, "rotate": 0.0, "scale": 0.0}
    free |= {"steps": 80, "learning_rate": 0.05}
    bound = {**free, "expert": "density", "weight": 0.05}
    rows = []
    for method, options, others in (
        ("activation-maximization", free, []),
        ("activation-maximization-expert", bound, [density()]),
    ):
        _, made = run_synthesis(methods()[method], classifier(), range(10), options, others=others)
        print(method, made.checks["probability"].tolist(), flush=True)
        rows.append(F.interpolate(made.images, scale_factor=9).expand(-1, 3, -1, -1))
    return list(F.pad(torch.cat([rows[0], F.pad(rows[1], [0, 0, GAP, 0], value=1.0)], 2), [0, 1], value=1.0))


PANELS: dict[str, Callable[[], list[Tensor]]] = {
    "activation-maximization": classes,
    "deepdream": dreams,
    "feature-inversion": inversions,
    "texture-synthesis": textures,
    "style-transfer": styles,
    "fooling-image": fooled,
    "caricature": caricatures,
    "maco": phases,
    "activation-maximization-code": codes,
    "activation-maximization-expert": experts,
}


def strip(images: Sequence[Tensor]) -> Image.Image:
    """Return pictures side by side, on white."""
    height, width = images[0].shape[1:]
    sheet = Image.new("RGB", (len(images) * (width + GAP) - GAP, height), "white")
    for place, image in enumerate(images):
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        sheet.paste(Image.fromarray(pixels), (place * (width + GAP), 0))
    return sheet


def main(names: Sequence[str]) -> None:
    """Make the panels that are named, or all."""
    PICTURES.mkdir(parents=True, exist_ok=True)
    for name in names or PANELS:
        strip(PANELS[name]()).save(PICTURES / f"{name}.webp", quality=85, method=6)


if __name__ == "__main__":
    main(sys.argv[1:])
