"""Everyone who makes a Grad-CAM of ResNet-50 in a process of its own, behind one signature; times nothing.

All run the same weights at the same precision on the same inputs: target class 281, the last spatial layer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from whylight.explainer import Explainer
from whylight.models import ModelConfig, open_model
from whylight.plugins import Plugins
from whylight.subject import CancelToken
from whylight.target import ClassIndex

CLASS = 281
SOURCE = "torchvision:resnet50"


def inputs(batch: int, device: str) -> torch.Tensor:
    """Return the same noise `[N, 3, 224, 224]` to everyone."""
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0)).to(device)


def reference_module(device: str) -> torch.nn.Module:
    """Return the network as a user of torchvision has it, with the weights that whylight serves."""
    import torchvision

    module: torch.nn.Module = torchvision.models.resnet50()
    module.load_state_dict(open_served(device, "contiguous").module.state_dict())
    return module.to(device).eval()


def open_served(device: str, layout: str = "auto"):  # noqa: ANN201
    """Open the model as the server does, with its load options; `layout` "contiguous" is torch's own."""
    plugins = Plugins()
    plugins.load()
    channels_last = False if layout == "contiguous" else "auto"
    config = ModelConfig(name="resnet50", source=SOURCE, weights="random:0", channels_last=channels_last)
    return open_model(config, plugins.sources, device)


def plain(batch: int, device: str) -> Callable[[], object]:
    """The forward pass alone, as torch runs it by default."""
    module, x = reference_module(device), inputs(batch, device)

    def run() -> object:
        with torch.inference_mode():
            return module(x)

    return run


def plain_served(batch: int, device: str) -> Callable[[], object]:
    """The forward pass alone, with the load options that whylight chose (channels_last)."""
    module, x = open_served(device).module, inputs(batch, device).contiguous(memory_format=torch.channels_last)

    def run() -> object:
        with torch.inference_mode():
            return module(x)

    return run


def whylight(batch: int, device: str) -> Callable[[], object]:
    """Predictions and Grad-CAM as the worker makes them, from tensors to arrays."""
    plugins = Plugins()
    plugins.load()
    model = open_served(device)
    explainer = Explainer({model.name: model}, plugins.methods)
    plan = explainer.plan(model.name, "grad-cam", {})
    decoded = [explainer.decode(plan, x.numpy()) for x in inputs(batch, "cpu")]
    targets = [(ClassIndex(CLASS),)] * batch
    tokens = [CancelToken() for _ in decoded]
    return lambda: explainer.explain(plan, decoded, targets, [[0]] * batch, tokens)


def pytorch_grad_cam(batch: int, device: str) -> Callable[[], object]:
    """The library pytorch-grad-cam."""
    from pytorch_grad_cam import GradCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    module, x = reference_module(device), inputs(batch, device)
    cam = GradCAM(model=module, target_layers=[module.layer4[-1]])
    targets = [ClassifierOutputTarget(CLASS)] * batch
    return lambda: cam(input_tensor=x, targets=targets)


def captum(batch: int, device: str) -> Callable[[], object]:
    """The library captum; the map stays at 7 x 7, and there are no predictions."""
    from captum.attr import LayerGradCam

    module, x = reference_module(device), inputs(batch, device)
    attribution = LayerGradCam(module, module.layer4[-1])
    return lambda: attribution.attribute(x, target=CLASS, relu_attributions=True)


CONTESTANTS: dict[str, Callable[[int, str], Callable[[], object]]] = {
    "plain forward, torch's defaults": plain,
    "plain forward, whylight's layout": plain_served,
    "whylight in process": whylight,
    "pytorch-grad-cam": pytorch_grad_cam,
    "captum": captum,
}
