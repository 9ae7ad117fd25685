"""Which method is measured with which options and batches, against which peers, with which goal; measures nothing.

`samples` of a batch size are chosen so that a call takes seconds on two cores; ours and the peers get the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import method_peers as peers
from method_peers import ROWS_PER_PASS, Call, Task

from whylight.outputs import Canvas, MapOutput

AT_INPUT = MapOutput(canvas=Canvas.INPUT, normalised=True)
AT_LAYER = MapOutput(normalised=True)
RAW = MapOutput()
ONE = {1: 1, 8: 1, 32: 1}
GRADIENT_ROWS = {1: 32, 8: 8, 32: 2}
CHANNELS = {"resnet18": 64, "resnet34": 64, "resnet50": 256}
"""Of layer1, which is where score-cam is measured: at the last layer a call takes minutes."""


@dataclass(frozen=True)
class Peer:
    """Who else has a method, and which profile and output make our maps those of the peer.

    `same` says whether the numbers are meant to be the same; "drawn" where each draws its own, and a reason where not.
    """

    library: str
    make: Callable[[Task], Call]
    profile: str = "captum"
    output: MapOutput = RAW
    same: str = "same"


@dataclass(frozen=True)
class Case:
    """A method, its options as a function of batch and samples, and how many rows a call runs.

    `samples` is how many copies of each input run, for each batch size that is measured. With `backward` each row goes
    there and back; else only there. `window` is that of occlusion.
    """

    method: str
    peers: tuple[Peer, ...]
    samples: Mapping[int, int] = field(default_factory=lambda: dict(ONE))
    options: Callable[[Task], Mapping[str, Any]] = lambda task: {}
    goal: float = 1.0
    backward: bool = False
    layer: str = "layer4"
    windows: Mapping[int, int] = field(default_factory=dict)


def cases(model: str) -> list[Case]:
    """Return all cases; rise, the first peer of which is a loop over masks, has no peer among torch's libraries."""
    return [
        Case("cam", (_torchcam("CAM"),)),
        Case("grad-cam", (_pgc("GradCAM"), _torchcam("GradCAM"), _captum_layer("LayerGradCam"))),
        Case("grad-cam++", (_pgc("GradCAMPlusPlus"),)),
        Case("xgrad-cam", (_pgc("XGradCAM"), _torchcam("XGradCAM"))),
        Case("layer-cam", (_pgc("LayerCAM"), _torchcam("LayerCAM"))),
        Case("hires-cam", (_pgc("HiResCAM"), _captum_layer("LayerGradientXActivation"))),
        Case("eigen-cam", (_pgc("EigenCAM", "its sign is that of the decomposition"),)),
        Case(
            "finer-cam",
            (_pgc("FinerCAM", "its target is the class that is nearest in score", alpha=0.6), _torchcam("FinerCAM")),
        ),
        Case("shapley-cam", (_pgc("ShapleyCAM"),)),
        Case("ablation-cam", (_pgc("AblationCAM"),), {1: 1, 8: 1}),
        Case(
            "score-cam",
            (_pgc("ScoreCAM"), _torchcam("ScoreCAM")),
            {1: CHANNELS[model], 8: CHANNELS[model]} if CHANNELS[model] < 100 else {1: CHANNELS[model]},
            lambda task: {"layer": task.layer},
            3.0,
            layer="layer1",
        ),
        Case("guided-grad-cam", (Peer("captum", peers.captum_guided_grad_cam),), backward=True),
        Case("saliency", (_captum("Saliency", peers.largest, abs=False),), backward=True),
        Case("input-x-gradient", (_captum("InputXGradient", peers.summed),), backward=True),
        Case(
            "guided-backprop",
            (
                _captum("GuidedBackprop", peers.largest),
                Peer("pytorch-grad-cam", peers.guided_one_by_one, same="its mask is that of the gradient alone"),
            ),
            goal=3.0,
            backward=True,
        ),
        Case("deconvnet", (_captum("Deconvolution", peers.largest),), backward=True),
        Case(
            "integrated-gradients",
            (
                Peer("captum", peers.captum_integrated_gradients),
                Peer("zennit", peers.zennit("IntegratedGradients"), same="it takes the right ends of the steps"),
            ),
            dict(GRADIENT_ROWS),
            lambda task: {"steps": task.samples, "baseline": "zero"},
            3.0,
            backward=True,
        ),
        Case(
            "smoothgrad",
            (
                Peer("captum", peers.captum_noise_tunnel("smoothgrad"), same="drawn"),
                Peer("zennit", peers.zennit("SmoothGrad"), same="drawn"),
            ),
            dict(GRADIENT_ROWS),
            lambda task: {"samples": task.samples, "noise": peers.NOISE},
            3.0,
            backward=True,
        ),
        Case(
            "vargrad",
            (Peer("captum", peers.captum_noise_tunnel("vargrad"), same="drawn"),),
            dict(GRADIENT_ROWS),
            lambda task: {"samples": task.samples, "noise": peers.NOISE},
            backward=True,
        ),
        Case(
            "expected-gradients",
            (Peer("captum", peers.captum_gradient_shap, same="drawn"),),
            dict(GRADIENT_ROWS),
            lambda task: {"samples": task.samples, "baselines": ["zero"]},
            backward=True,
        ),
        Case(
            "deeplift",
            (_captum("DeepLift", peers.summed, "captum is wrong where pooling windows overlap"),),
            options=lambda task: {"baseline": "zero"},
            backward=True,
        ),
        Case("lrp", (Peer("zennit", peers.zennit("EpsilonPlus"), "paper"),), backward=True),
        Case(
            "occlusion",
            (Peer("captum", peers.captum_occlusion),),
            {1: 169, 8: 36, 32: 9},
            lambda task: {"window": task.window, "stride": task.window // 2, "fill": "zero"},
            3.0,
            windows={1: 32, 8: 64, 32: 112},
        ),
        Case(
            "rise",
            (
                Peer("plain loop, 16 masks a pass", peers.rise_loop(ROWS_PER_PASS), same="drawn"),
                Peer("plain loop, mask by mask", peers.rise_loop(1), same="drawn"),
            ),
            {1: 256, 8: 32},
            lambda task: {"masks": task.samples},
            3.0,
        ),
        Case(
            "lime",
            (Peer("captum", peers.captum_surrogate("Lime"), same="drawn"),),
            {1: 128, 8: 32},
            lambda task: _squares(task) | {"surrogate": "lasso"},
        ),
        Case(
            "kernel-shap",
            (Peer("captum", peers.captum_surrogate("KernelShap"), same="drawn"),),
            {1: 128, 8: 32},
            _squares,
        ),
    ]


def _squares(task: Task) -> dict[str, Any]:
    return {"samples": task.samples, "segmentation": "grid", "segments": task.grid**2, "fill": "zero"}


def _pgc(name: str, same: str = "same", **settings: Any) -> Peer:
    return Peer("pytorch-grad-cam", peers.grad_cam_library(name, **settings), "pytorch-grad-cam", AT_INPUT, same)


def _torchcam(name: str, same: str = "same") -> Peer:
    return Peer("torchcam", peers.torchcam(name), "torchcam", AT_LAYER, same)


def _captum_layer(name: str, same: str = "same") -> Peer:
    return Peer("captum", peers.captum_at_layer(name), "captum", RAW, same)


def _captum(name: str, reduce: Callable[[Any], Any], same: str = "same", **settings: Any) -> Peer:
    return Peer("captum", peers.captum_at_input(name, reduce, **settings), "captum", RAW, same)
