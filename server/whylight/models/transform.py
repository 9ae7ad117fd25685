"""From a picture to the numbers that a model takes, as data: resize, crop, mean, deviation; knows no model.

Reproduces torchvision's classification presets on PIL pictures exactly (torchvision 0.29 `transforms/_presets.py`,
`transforms/functional.py`): antialiased resize of the shorter side, centre crop, scaling, normalisation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import torch
    from PIL import Image

Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos"]


@dataclass(frozen=True)
class Fitted:
    """A picture as the model sees it.

    `pixels` is uint8 `[H, W, channels]`; `box` is that view in the original picture's pixels (left, top, right,
    bottom), beyond its edges where a small picture was padded; `original_size` is (width, height).
    """

    pixels: npt.NDArray[np.uint8]
    box: tuple[float, float, float, float]
    original_size: tuple[int, int]


@dataclass(frozen=True)
class Transform:
    """How a picture is prepared.

    `resize`: length of the shorter side, or an exact (H, W), or None. `crop`: centre crop (H, W), or None.
    `mean` and `std` are of pixels divided by `scale`: 255 for values in 0..1, 1 for 0..255; as many as channels.
    """

    resize: int | tuple[int, int] | None
    crop: tuple[int, int] | None
    interpolation: Interpolation = "bilinear"
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    scale: float = 255.0
    channel_order: Literal["rgb", "bgr"] = "rgb"

    @classmethod
    def plain(cls, size: tuple[int, int], channels: int = 3) -> Transform:
        """Return the transform for a model that takes 0..1 at `size` (H, W): resize the shorter side, crop."""
        return cls(min(size), size, mean=(0.0,) * channels, std=(1.0,) * channels).resized(size)

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) of what it gives, or None if that depends on the picture."""
        return self.crop or (self.resize if isinstance(self.resize, tuple) else None)

    @property
    def channels(self) -> int:
        """How many channels it gives."""
        return len(self.mean)

    def resized(self, size: tuple[int, int]) -> Transform:
        """Return the same preparation for inputs of `size` (H, W), with the same share cropped away."""
        import dataclasses

        if not isinstance(self.resize, int) or self.crop is None:
            return dataclasses.replace(self, resize=size, crop=None)
        if size[0] != size[1]:
            return dataclasses.replace(self, resize=size, crop=None)
        shorter = round(size[0] * self.resize / min(self.crop))
        return dataclasses.replace(self, resize=shorter, crop=size)

    def fit(self, picture: Image.Image) -> Fitted:
        """Resize and crop a picture, and say what part of it is left."""
        from PIL import Image

        original = picture.size
        mode = "L" if self.channels == 1 else "RGB"
        fitted = picture if picture.mode == mode else picture.convert(mode)  # `convert` always copies
        if self.resize is not None:
            fitted = fitted.resize(self._resized_size(original), getattr(Image.Resampling, self.interpolation.upper()))
        width, height = fitted.size
        left, top, right, bottom = 0, 0, width, height
        if self.crop is not None:
            left, top = _centred(width, self.crop[1]), _centred(height, self.crop[0])
            right, bottom = left + self.crop[1], top + self.crop[0]
            fitted = fitted.crop((left, top, right, bottom))
        x, y = original[0] / width, original[1] / height
        pixels = np.array(fitted, dtype=np.uint8)
        pixels = pixels if pixels.ndim == 3 else pixels[:, :, None]
        return Fitted(pixels, (left * x, top * y, right * x, bottom * y), original)

    def normalise(
        self,
        pixels: torch.Tensor,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> torch.Tensor:
        """Return `[N, channels, H, W]` (float32 unless `dtype` says otherwise) from uint8 `[N, H, W, channels]`."""
        import torch

        wanted = dtype or torch.float32
        # Channels are gathered while they are bytes: seven times as fast as with floats (36.5 -> 4.8 ms for 16 of 224).
        values = pixels.to(device=device).permute(0, 3, 1, 2).contiguous().to(wanted)
        if self.channel_order == "bgr":
            values = values.flip(1)
        mean, std = self._statistics(values)
        return values.div_(self.scale).sub_(mean).div_(std).contiguous()

    def from_unit(self, images: torch.Tensor) -> torch.Tensor:
        """Return the model's inputs `[N, channels, H, W]` for images of 0 (black) to 1 (white), RGB; differentiable."""
        values = images.flip(1) if self.channel_order == "bgr" else images
        mean, std = self._statistics(images)
        return (values * (255 / self.scale) - mean) / std

    def to_unit(self, inputs: torch.Tensor) -> torch.Tensor:
        """Return the images of 0 (black) to 1 (white), RGB, that inputs `[N, channels, H, W]` are; differentiable."""
        mean, std = self._statistics(inputs)
        values = (inputs * std + mean) * (self.scale / 255)
        return values.flip(1) if self.channel_order == "bgr" else values

    def _statistics(self, like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        mean = torch.tensor(self.mean, dtype=like.dtype, device=like.device)[:, None, None]
        return mean, torch.tensor(self.std, dtype=like.dtype, device=like.device)[:, None, None]

    def _resized_size(self, original: tuple[int, int]) -> tuple[int, int]:
        """Return (width, height) behind the resize, rounded as torchvision does."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        width, height = original
        shorter: Any = self.resize
        if width <= height:
            return shorter, int(shorter * height / width)
        return int(shorter * width / height), shorter


def _centred(length: int, crop: int) -> int:
    """Return where a centred crop begins; negative where the picture is smaller, which is padded with black.

    Rounds as torchvision's `center_crop`: half to even for a crop, the smaller part first for padding.
    """
    return round((length - crop) / 2) if length >= crop else -((crop - length) // 2)
