"""Under its profile, the younger maps are those of pytorch-grad-cam, to 1e-5; guided-grad-cam is that of captum."""

from __future__ import annotations

import contextlib
import copy
import io

import pytest
import torch
import torchvision
from torch import nn

import whylight
from whylight import ops
from whylight.models import wrap_module
from whylight.testing import run_method
from whylight_cam import (
    AblationCAM,
    EigenCAM,
    FinerCAM,
    GradCAM,
    GradCAMPlusPlus,
    GuidedGradCAM,
    LayerCAM,
    ScoreCAM,
    ShapleyCAM,
)

pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
from pytorch_grad_cam.utils.model_targets import (  # noqa: E402 - after the check that it is there
    ClassifierOutputTarget,
    FinerWeightedTarget,
)

SIZE = (64, 96)
CLASSES = [3, 7]
PROFILE = whylight.PROFILES["pytorch-grad-cam"]
SCALE = ops.Scale(
    rectify=True, normalise=PROFILE.normalise, eps=PROFILE.normalise_eps, interpolation=PROFILE.interpolation
)
INPUTS = torch.nn.functional.interpolate(
    torch.randn(2, 3, 8, 12, generator=torch.Generator().manual_seed(4), dtype=torch.float64), SIZE, mode="bicubic"
)
LAYERS = {
    "resnet18": ("layer1", "layer4"),
    "googlenet": ("maxpool2", "inception5b"),
    "mobilenet_v3_small": ("features.8", "features"),
    "densenet121": ("features.pool0", "features.denseblock4"),  # "features" gets a ReLU in place in the oracle
}


@pytest.fixture(scope="module", params=LAYERS)
def pair(request):
    """A network in float64 as our model, as what an oracle may hook, and names of an early and the last layer."""
    name = request.param
    extra = {"init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.get_model(name, num_classes=10, **extra)
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 1.5)
    network = network.eval().double()
    oracle = copy.deepcopy(network)
    for module in oracle.modules():
        if hasattr(module, "inplace"):
            module.inplace = False
    return wrap_module(network, input_size=SIZE), oracle, *LAYERS[name]


def theirs(kind, network, layers, targets, **more):
    smooth = {"aug_smooth": True} if more.pop("smooth", False) else {}
    with contextlib.redirect_stderr(io.StringIO()):
        cam = kind(model=network, target_layers=[network.get_submodule(layer) for layer in layers], **more)
        maps = torch.from_numpy(cam(INPUTS, targets, **smooth))
    (getattr(cam, "base_cam", cam)).activations_and_grads.release()
    return maps


def drawn(method, model, **options):
    maps = run_method(method, model, INPUTS, CLASSES, {"profile": "pytorch-grad-cam", **options}).maps
    return ops.cam_render(maps, SIZE, SCALE).values


def agree(ours, expected):
    assert ours.shape == expected.shape == (2, *SIZE)
    assert float(expected.max()) > 0.5
    assert float((ours - expected).abs().max()) <= 1e-5


def simple():
    return [ClassifierOutputTarget(index) for index in CLASSES]


def test_score_cam(pair):
    model, oracle, early, _ = pair
    agree(drawn(ScoreCAM, model, layer=early), theirs(pytorch_grad_cam.ScoreCAM, oracle, [early], simple()))


def test_ablation_cam(pair):
    """One channel to a batch: in larger ones pytorch-grad-cam goes on subtracting 1e7 from channel to channel."""
    model, oracle, early, _ = pair
    if early == "maxpool2":
        pytest.skip("with these weights GoogLeNet's map is nowhere positive: a parity of nothing")
    expected = theirs(pytorch_grad_cam.AblationCAM, copy.deepcopy(oracle), [early], simple(), batch_size=1)
    agree(drawn(AblationCAM, model, layer=early), expected)


def test_eigen_cam_up_to_its_sign(pair):
    model, oracle, early, last = pair
    for layer in (early, last):
        ours = run_method(EigenCAM, model, INPUTS, CLASSES, {"layer": layer}).maps
        kept = {}
        hook = oracle.get_submodule(layer).register_forward_hook(lambda _m, _i, out, kept=kept: kept.update(a=out))
        with torch.no_grad():
            oracle(INPUTS)
        hook.remove()
        from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

        expected = torch.from_numpy(get_2d_projection(kept["a"].numpy())).double()
        size = expected.abs().amax((1, 2))
        difference = torch.minimum((ours - expected).abs().amax((1, 2)), (ours + expected).abs().amax((1, 2)))
        assert float((difference / size).max()) <= 1e-5
        total = kept["a"].sum(1)
        assert bool((((total - total.mean((1, 2), keepdim=True)) * ours).sum((1, 2)) > 0).all())


def test_finer_cam(pair):
    model, oracle, _, last = pair
    with torch.no_grad():
        scores = oracle(INPUTS)
    targets = []
    for row, index in enumerate(CLASSES):
        nearest = (scores[row] - scores[row, index]).abs().argsort().tolist()[1:4]
        targets.append(FinerWeightedTarget(index, nearest, 1.0))
    agree(drawn(FinerCAM, model, layer=last, alpha=1.0), theirs(pytorch_grad_cam.FinerCAM, oracle, [last], targets))


def test_shapley_cam(pair):
    model, oracle, early, _ = pair
    if any(isinstance(module, nn.Hardsigmoid) for module in oracle.modules()):
        with pytest.raises(whylight.Unsupported, match="cannot be differentiated twice"):
            run_method(ShapleyCAM, model, INPUTS, CLASSES, {"layer": early})
        return
    agree(drawn(ShapleyCAM, model, layer=early), theirs(pytorch_grad_cam.ShapleyCAM, oracle, [early], simple()))


@pytest.mark.parametrize(
    ("ours", "kind"), [(GradCAM, pytorch_grad_cam.GradCAM), (GradCAMPlusPlus, pytorch_grad_cam.GradCAMPlusPlus)]
)
def test_several_layers(pair, ours, kind):
    """The fused maps themselves: they are normalised already."""
    model, oracle, early, last = pair
    maps = run_method(ours, model, INPUTS, CLASSES, {"profile": "pytorch-grad-cam", "layers": [early, last]}).maps
    agree(maps, theirs(kind, oracle, [early, last], simple()))


@pytest.mark.parametrize(("ours", "kind"), [(GradCAM, pytorch_grad_cam.GradCAM), (LayerCAM, pytorch_grad_cam.LayerCAM)])
def test_smoothing(pair, ours, kind):
    """The smoothed maps themselves: pytorch-grad-cam does not normalise their mean again."""
    model, oracle, early, last = pair
    for layers in ([last], [early, last]):
        options = {"profile": "pytorch-grad-cam", "smooth": True, "layers": layers}
        maps = run_method(ours, model, INPUTS, CLASSES, options).maps
        agree(maps, theirs(kind, oracle, layers, simple(), smooth=True))


@pytest.mark.filterwarnings("ignore:Setting backward hooks on ReLU:UserWarning")
def test_guided_grad_cam_is_that_of_captum():
    attr = pytest.importorskip("captum.attr")
    for name, layer in (("resnet18", "layer2"), ("vgg11", "features.19"), ("googlenet", "inception4a")):
        extra = {"init_weights": False} if name == "googlenet" else {}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            network = torchvision.models.get_model(name, num_classes=10, **extra).eval().double()
        model = wrap_module(network, input_size=SIZE)
        oracle = copy.deepcopy(network)
        separate_relus(oracle)
        for mode, profile in (("bilinear", "paper"), ("nearest", "captum")):
            expected = attr.GuidedGradCam(oracle, oracle.get_submodule(layer)).attribute(
                INPUTS.clone().requires_grad_(), torch.tensor(CLASSES), interpolate_mode=mode
            )
            ours = run_method(
                GuidedGradCAM, model, INPUTS, CLASSES, {"layer": layer, "reduce": "signed", "profile": profile}
            ).maps
            expected = expected.detach()
            assert float(expected.abs().max()) > 0
            torch.testing.assert_close(ours, expected.sum(1), rtol=0, atol=1e-9 * float(expected.abs().max()))


def separate_relus(network):
    """Captum hooks modules: each ReLU must be one of its own and out of place, and functional ones escape it."""
    for module in network.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = False
        if type(module).__name__ == "BasicBlock":
            module.relu2 = nn.ReLU()
            module.forward = block_forward.__get__(module)
        if type(module).__name__ == "BasicConv2d":
            module.relu = nn.ReLU()
            module.forward = convolution_forward.__get__(module)


def block_forward(self, x):
    out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
    return self.relu2(out + (x if self.downsample is None else self.downsample(x)))


def convolution_forward(self, x):
    return self.relu(self.bn(self.conv(x)))
