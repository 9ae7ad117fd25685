"""Every attribution method as other libraries have it, at their fastest settings; times nothing and knows no goal.

Each function takes a `Task` and returns a call without arguments that gives maps `[N, h, w]`, as tensor or array. What
needs to be done only once (hooks, canonisers, composites, noise levels) is done before. As many rows share a pass as in
ours, 16, or 8 there and back, where a library lets its user say so: more take longer.
"""

from __future__ import annotations

import copy
import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CLASS = 281
ROWS_PER_PASS = 16
ROWS_WITH_GRADIENTS = 8
NOISE = 0.15

Call = Callable[[], Any]


@dataclass(frozen=True)
class Task:
    """A network in eval mode, inputs `[N, 3, H, W]`, the layer of class activation maps, samples, windows, grid."""

    module: nn.Module
    inputs: Tensor
    layer: str
    samples: int
    window: int = 32
    grid: int = 4

    @property
    def copies_per_pass(self) -> int:
        """How many copies of all inputs share a pass there and back."""
        return max(1, ROWS_WITH_GRADIENTS // len(self.inputs))

    @property
    def targets(self) -> list[int]:
        """The class of each input."""
        return [CLASS] * len(self.inputs)

    @property
    def deviation(self) -> float:
        """The noise that is a part of the range of all inputs: these libraries know one number for the batch."""
        return NOISE * float(self.inputs.max() - self.inputs.min())


def grad_cam_library(name: str, **settings: Any) -> Callable[[Task], Call]:
    """Return a method of pytorch-grad-cam: maps at the size of the input, in 0..1."""

    def make(task: Task) -> Call:
        import pytorch_grad_cam
        import tqdm
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        tqdm.tqdm = functools.partial(tqdm.tqdm, disable=True)  # a line for every pass would be timed too
        method = getattr(pytorch_grad_cam, name)(task.module, [task.module.get_submodule(task.layer)])
        method.batch_size = ROWS_PER_PASS
        if name == "FinerCAM":
            return lambda: method(task.inputs, target_idx=CLASS, **settings)
        targets = [ClassifierOutputTarget(index) for index in task.targets]
        return lambda: method(task.inputs, targets=targets)

    return make


def guided_one_by_one(task: Task) -> Call:
    """pytorch-grad-cam's guided backpropagation, which looks at the first image of a batch only."""
    from pytorch_grad_cam import GuidedBackpropReLUModel

    method = GuidedBackpropReLUModel(task.module, "cpu" if task.inputs.device.type == "cpu" else "cuda")

    def run() -> Tensor:
        gradients = [torch.from_numpy(method(one.clone(), CLASS)) for one in torch.split(task.inputs, 1)]
        return torch.stack(gradients).abs().amax(3)

    return run


def torchcam(name: str, **settings: Any) -> Callable[[Task], Call]:
    """Return a method of torchcam: maps at the size of the layer, in 0..1."""

    def make(task: Task) -> Call:
        import torchcam.methods

        method = getattr(torchcam.methods, name)(task.module, task.layer, **settings)
        gradients = name not in ("CAM", "ScoreCAM")

        def run() -> Tensor:
            with torch.set_grad_enabled(gradients):
                maps: list[Tensor] = method(CLASS, task.module(task.inputs))
            return maps[0]

        return run

    return make


def captum_at_layer(name: str) -> Callable[[Task], Call]:
    """Return a layer method of captum: raw maps at the size of the layer."""

    def make(task: Task) -> Call:
        import captum.attr

        method = getattr(captum.attr, name)(task.module, task.module.get_submodule(task.layer))
        return lambda: method.attribute(task.inputs, target=CLASS).sum(1).detach()

    return make


def captum_guided_grad_cam(task: Task) -> Call:
    """captum's guided Grad-CAM."""
    import captum.attr

    method = captum.attr.GuidedGradCam(task.module, task.module.get_submodule(task.layer))
    return lambda: largest(method.attribute(task.inputs, target=CLASS))


def captum_at_input(name: str, reduce: Callable[[Tensor], Tensor], **settings: Any) -> Callable[[Task], Call]:
    """Return a method of captum that takes one pass there and back."""

    def make(task: Task) -> Call:
        import captum.attr

        module = with_relus_of_their_own(task.module) if name == "DeepLift" else task.module
        method = getattr(captum.attr, name)(module)
        inputs = task.inputs.clone()

        def run() -> Tensor:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # it says in each call that it sets hooks
                return reduce(method.attribute(inputs, target=CLASS, **settings).detach())

        return run

    return make


def captum_integrated_gradients(task: Task) -> Call:
    """captum's integrated gradients."""
    import captum.attr

    method = captum.attr.IntegratedGradients(task.module)
    rows = max(ROWS_WITH_GRADIENTS, len(task.inputs))
    return lambda: (
        method.attribute(task.inputs, target=CLASS, n_steps=task.samples, internal_batch_size=rows).sum(1).detach()
    )


def captum_noise_tunnel(kind: str) -> Callable[[Task], Call]:
    """Return captum's noise tunnel over saliency."""

    def make(task: Task) -> Call:
        import captum.attr

        method = captum.attr.NoiseTunnel(captum.attr.Saliency(task.module))
        settings = {"nt_type": kind, "nt_samples": task.samples, "nt_samples_batch_size": task.copies_per_pass}
        deviation = task.deviation
        return lambda: largest(
            method.attribute(task.inputs, target=CLASS, abs=False, stdevs=deviation, **settings).detach()
        )

    return make


def captum_gradient_shap(task: Task) -> Call:
    """captum's gradient SHAP from a baseline of zeros; it has no setting for the rows of a pass."""
    import captum.attr

    method = captum.attr.GradientShap(task.module)
    baselines = torch.zeros_like(task.inputs[:1])
    return lambda: method.attribute(task.inputs, baselines, n_samples=task.samples, target=CLASS).sum(1).detach()


def captum_occlusion(task: Task) -> Call:
    """captum's occlusion by windows of zeros."""
    import captum.attr

    method = captum.attr.Occlusion(task.module)
    shape, step = (3, task.window, task.window), (3, task.window // 2, task.window // 2)

    def run() -> Tensor:
        with torch.no_grad():
            attributed: Tensor = method.attribute(
                task.inputs,
                shape,
                strides=step,
                target=CLASS,
                perturbations_per_eval=max(1, ROWS_PER_PASS // len(task.inputs)),
            )
        return attributed[:, 0]  # a window covers all channels, and each is given the whole loss

    return run


def captum_surrogate(name: str) -> Callable[[Task], Call]:
    """Return captum's LIME or kernel SHAP over squares, image by image, as it takes one at a time."""

    def make(task: Task) -> Call:
        import captum.attr

        method = getattr(captum.attr, name)(task.module)
        parts = squares(task.grid, task.inputs).expand(1, 3, -1, -1)
        settings = {"feature_mask": parts, "n_samples": task.samples, "perturbations_per_eval": ROWS_PER_PASS}

        def run() -> Tensor:
            images = torch.split(task.inputs, 1)
            with torch.no_grad():
                return torch.cat([method.attribute(one, target=CLASS, **settings)[:, 0] for one in images])

        return run

    return make


def rise_loop(rows: int) -> Callable[[Task], Call]:
    """Return RISE as the authors' code has it, with `rows` masks to a pass: no library for torch has it."""

    def make(task: Task) -> Call:
        height, width = task.inputs.shape[2:]
        side = (-(-height // 7), -(-width // 7))
        generator = torch.Generator().manual_seed(0)

        def masks() -> Tensor:
            made = torch.empty(task.samples, height, width)
            grids = (torch.rand(task.samples, 1, 7, 7, generator=generator) < 0.5).float()
            for mask, grid in zip(made, grids, strict=True):
                down, across = (int(torch.randint(one, (1,), generator=generator)) for one in side)
                large = F.interpolate(grid[None], (8 * side[0], 8 * side[1]), mode="bilinear")[0, 0]
                mask.copy_(large[down : down + height, across : across + width])
            return made.to(task.inputs.device)

        def run() -> Tensor:
            maps = []
            with torch.no_grad():
                for one in torch.split(task.inputs, 1):
                    drawn = masks()
                    scores = [task.module(one * part[:, None])[:, CLASS] for part in torch.split(drawn, rows)]
                    maps.append((torch.cat(scores) @ drawn.flatten(1)).view(height, width) / (task.samples * 0.5))
            return torch.stack(maps)

        return run

    return make


def zennit(name: str) -> Callable[[Task], Call]:
    """Return LRP, smoothgrad or integrated gradients of zennit; the latter two run one copy at a time."""

    def make(task: Task) -> Call:
        import zennit.attribution
        from zennit.composites import EpsilonPlus
        from zennit.torchvision import ResNetCanonizer

        wanted = torch.eye(1000, device=task.inputs.device)[task.targets]
        module = copy.deepcopy(task.module)
        if name == "EpsilonPlus":
            EpsilonPlus(stabilizer=1e-6, canonizers=[ResNetCanonizer()]).register(module)
            for layer in module.modules():
                if isinstance(layer, nn.BatchNorm2d):
                    layer.eps = 0.0  # it was merged into the convolution, and is left where it was
            attributor = zennit.attribution.Gradient(module, attr_output=lambda output: output * wanted)
        elif name == "SmoothGrad":
            attributor = zennit.attribution.SmoothGrad(module, noise_level=NOISE, n_iter=task.samples)
        else:
            attributor = zennit.attribution.IntegratedGradients(module, n_iter=task.samples)
        reduce = largest if name == "SmoothGrad" else summed

        def run() -> Tensor:
            inputs = task.inputs.clone().requires_grad_(True)
            return reduce(attributor(inputs, None if name == "EpsilonPlus" else wanted)[1].detach())

        return run

    return make


def with_relus_of_their_own(network: nn.Module) -> nn.Module:
    """Return a ResNet of torchvision's whose blocks use each ReLU once: captum's DeepLIFT allows no other."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    class Basic(BasicBlock):
        def forward(self, x: Tensor) -> Tensor:
            kept = x if self.downsample is None else self.downsample(x)
            return self.last(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))) + kept)

    class Narrow(Bottleneck):
        def forward(self, x: Tensor) -> Tensor:
            kept = x if self.downsample is None else self.downsample(x)
            y = self.middle(self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x))))))
            return self.last(self.bn3(self.conv3(y)) + kept)

    changed = copy.deepcopy(network)
    for layer in changed.modules():
        if isinstance(layer, nn.ReLU):
            layer.inplace = False
        if type(layer) in (BasicBlock, Bottleneck):
            layer.middle, layer.last = nn.ReLU(), nn.ReLU()
            layer.__class__ = Basic if type(layer) is BasicBlock else Narrow
    return changed


def squares(grid: int, inputs: Tensor) -> Tensor:
    """Return which of `grid` x `grid` rectangles each pixel is in, `[H, W]`."""
    height, width = inputs.shape[2:]
    down, across = torch.arange(height) * grid // height, torch.arange(width) * grid // width
    return (down[:, None] * grid + across).to(inputs.device)


def largest(gradients: Tensor) -> Tensor:
    return gradients.abs().amax(1)


def summed(shares: Tensor) -> Tensor:
    return shares.sum(1)
