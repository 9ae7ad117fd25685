"""How images are held while they are optimised: as pixels, as a spectrum, as a generator's code; knows no loss.

Images are `[B, C, H, W]` with 0 for black and 1 for white, RGB or grey.
"""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from whylight.synthesis.term import per_image

# Square root of the covariance of the colours of ImageNet's pixels, as measured for Lucid (optvis/param/color.py), so
# scaled that its largest column has the norm 1.
_COLOUR_ROOT = ((0.26, 0.09, 0.02), (0.27, 0.00, -0.05), (0.27, -0.09, 0.03))


class Parametrisation(abc.ABC):
    """Images, and the tensor that stands for them."""

    parameter: Tensor
    """What the optimiser changes: a leaf, one row for each image."""

    @abc.abstractmethod
    def images(self) -> Tensor:
        """Return the images, differentiable with respect to `parameter`."""

    def replace(self, images: Tensor) -> None:
        """Take changed images in place of its own.

        Raises:
            ValueError: it holds something from which not every image can be made.
        """
        raise ValueError(f"{type(self).__name__} cannot take images: leave operators on images out")

    def price(self) -> Tensor | None:
        """Return what holding each image so costs, `[B]`, differentiable; it is added to the loss, as "held"."""
        return None


class Pixels(Parametrisation):
    """The pixels themselves. `low` and `high` bound them behind every step."""

    def __init__(self, start: Tensor, *, low: float | Tensor = 0.0, high: float | Tensor = 1.0) -> None:
        self.parameter = start.detach().clone().requires_grad_(True)
        self._low = torch.as_tensor(low, dtype=start.dtype, device=start.device)
        self._high = torch.as_tensor(high, dtype=start.dtype, device=start.device)

    def images(self) -> Tensor:
        """Return the pixels, within their bounds; at a bound a gradient that leads inside still counts."""
        with torch.no_grad():
            self.parameter.copy_(torch.minimum(torch.maximum(self.parameter, self._low), self._high))
        return self.parameter

    def replace(self, images: Tensor) -> None:
        """Take changed images."""
        with torch.no_grad():
            self.parameter.copy_(images)


class Fourier(Parametrisation):
    """The spectrum of decorrelated colours, each frequency scaled by its wavelength; a sigmoid keeps pixels in bounds.

    Steps of one length change all scales of an image alike, as they do in natural images, and colours as they vary
    there (Olah, Mordvintsev and Schubert, Feature Visualization, Distill 2017). Grey images have no colours.
    """

    def __init__(self, start: Tensor) -> None:
        """Begin with `start` `[B, C, H, W]`; values outside 0.002..0.998 are brought there, where the sigmoid ends."""
        self._size = (start.shape[2], start.shape[3])
        self._scale = spectrum_scale(self._size).to(start.device, start.dtype)
        self._colours = colour_root(start)
        self.parameter = self._of(start).requires_grad_(True)

    @classmethod
    def noise(
        cls, shape: Sequence[int], generators: Sequence[torch.Generator], like: Tensor, sd: float = 0.01
    ) -> Fourier:
        """Begin with a spectrum of normal noise of deviation `sd`, each image from its own generator (as Lucid)."""
        channels, height, width = shape
        made = cls(torch.full((len(generators), channels, height, width), 0.5, dtype=like.dtype, device=like.device))
        size = made.parameter.shape[1:]
        drawn = [torch.randn(size, generator=g, device=g.device, dtype=torch.float64) for g in generators]
        made.parameter = (sd * torch.stack(drawn)).to(like).requires_grad_(True)
        return made

    def spectrum(self) -> Tensor:
        """Return the spectrum `[B, C, H, W // 2 + 1]`, complex, of what a sigmoid makes images."""
        return torch.view_as_complex(self.parameter) * self._scale

    def images(self) -> Tensor:
        """Return the images of the spectrum."""
        spectrum = self.spectrum()
        values = torch.stack([torch.fft.irfft2(image, s=self._size, norm="ortho") for image in spectrum])
        if self._colours is not None:
            values = torch.einsum("ij,bjhw->bihw", self._colours, values)
        return torch.sigmoid(values)

    def replace(self, images: Tensor) -> None:
        """Take changed images; values outside 0.002..0.998 are brought there."""
        with torch.no_grad():
            self.parameter.copy_(self._of(images))

    def _of(self, images: Tensor) -> Tensor:
        """Return what stands for `images`: the real and imaginary parts of their scaled spectrum."""
        values = torch.logit(images.clamp(0.002, 0.998))
        if self._colours is not None:
            values = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(self._colours), values)
        spectrum = torch.stack([torch.fft.rfft2(image, norm="ortho") for image in values])
        return torch.view_as_real(spectrum / self._scale).contiguous()


class Phase(Parametrisation):
    """The phases of a spectrum whose magnitudes stay (MACO: Fel et al., NeurIPS 2023).

    `magnitude` is `[C, H, W // 2 + 1]` or one of these for each image, as of `rfft2` with ``norm="ortho"``, of
    what a sigmoid makes images.
    """

    def __init__(self, start: Tensor, magnitude: Tensor, size: tuple[int, int]) -> None:
        """Begin with the phases `start` `[B, C, H, W // 2 + 1]`, in radians."""
        self.parameter = start.detach().clone().requires_grad_(True)
        self._magnitude, self._size = magnitude, size
        self._colours = colour_root(start)

    def images(self) -> Tensor:
        """Return the images; their magnitudes are the given ones but for what the sigmoid bends."""
        spectrum = torch.polar(self._magnitude.expand_as(self.parameter).contiguous(), self.parameter)
        values = torch.stack([torch.fft.irfft2(image, s=self._size, norm="ortho") for image in spectrum])
        if self._colours is not None:
            values = torch.einsum("ij,bjhw->bihw", self._colours, values)
        return torch.sigmoid(values)


class Code(Parametrisation):
    """A generator's code: images are what it makes of it, so they look like what it was trained on.

    Nguyen et al., Synthesizing the preferred inputs for neurons in neural networks via deep generator networks, NIPS
    2016. `decode` turns codes `[B, ...]` into images, each by itself. A code's square counts `weight` times: where
    codes are normally distributed, half of it is minus the log of their density.
    """

    def __init__(self, start: Tensor, decode: Callable[[Tensor], Tensor], weight: float = 0.0) -> None:
        self.parameter = start.detach().clone().requires_grad_(True)
        self._decode = decode
        self._weight = weight

    def images(self) -> Tensor:
        """Return the decoded images."""
        return self._decode(self.parameter)

    def price(self) -> Tensor | None:
        """Return the weighted squares of the codes, None where they count nothing."""
        return self._weight * per_image(self.parameter.square()) if self._weight else None


def spectrum_scale(size: tuple[int, int]) -> Tensor:
    """Return the wavelength of each frequency of an image of `size` (H, W), `[H, W // 2 + 1]`, in pixels.

    Those longer than the image's longer side count as long as it.
    """
    down = torch.fft.fftfreq(size[0], dtype=torch.float64)[:, None]
    across = torch.fft.rfftfreq(size[1], dtype=torch.float64)
    return 1 / torch.hypot(down, across).clamp_min(1 / max(size))


def colour_root(like: Tensor) -> Tensor | None:
    """Return the matrix `[3, 3]` from decorrelated colours to RGB, None for images without colours."""
    if like.shape[1] != 3:
        return None
    root = torch.tensor(_COLOUR_ROOT, dtype=like.dtype, device=like.device)
    longest: Tensor = root.norm(dim=0).max()
    return root / longest
