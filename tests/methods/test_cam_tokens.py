"""Transformers: tokens are laid out as the picture that they stand for, and what cannot be is refused."""

from __future__ import annotations

import pytest
import torch
import torchvision

import whylight
from whylight.explainer import Explainer
from whylight.models import wrap_module
from whylight.plugins import OfferedMethod
from whylight.subject.layout import CHANNELS_LAST, MAPS, Layout, find_layouts
from whylight.testing import run_method
from whylight_cam import AblationCAM, EigenCAM, GradCAM, LayerCAM, ScoreCAM, ShapleyCAM

timm = pytest.importorskip("timm")
pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402 - after the check that it is there

SIZE = (64, 96)
INPUTS = torch.randn(2, 3, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def vit():
    """A small ViT of timm with random weights, for inputs that are not square."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return timm.create_model("vit_tiny_patch16_224", img_size=SIZE, num_classes=5, depth=3).eval()


@pytest.fixture(scope="module")
def model(vit):
    return wrap_module(vit, input_size=SIZE)


def test_the_last_tokens_that_matter_are_found(model):
    assert model.last_spatial == "blocks.2.norm1"
    assert model.layout("blocks.2.norm1") == Layout(1, 1, (16.0, 16.0))
    assert whylight.Need.SPATIAL_LAYER in model.capabilities


def test_torchvision_vit_is_square_and_found_too():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.vit_b_16(num_classes=5)
        torch.nn.init.normal_(network.heads.head.weight)  # torchvision begins with zeros, on which nothing depends
    model = wrap_module(network)
    assert model.last_spatial == "encoder.layers.encoder_layer_11.ln_1"
    maps = run_method(GradCAM, model, torch.randn(1, 3, 224, 224), [1]).maps
    assert maps.shape == (1, 14, 14)
    assert float(maps.abs().max()) > 0


@pytest.mark.parametrize("layer", ["blocks.2.norm1", "blocks.1"])
def test_grad_cam_is_that_of_pytorch_grad_cam_with_its_reshape_transform(vit, model, layer):
    def grid(tokens):
        return tokens[:, 1:].reshape(len(tokens), 4, 6, -1).permute(0, 3, 1, 2)

    cam = pytorch_grad_cam.GradCAM(model=vit, target_layers=[vit.get_submodule(layer)], reshape_transform=grid)
    expected = torch.from_numpy(cam(INPUTS, [ClassifierOutputTarget(1), ClassifierOutputTarget(3)]))
    cam.activations_and_grads.release()
    maps = run_method(GradCAM, model, INPUTS, [1, 3], {"layer": layer}).maps
    assert maps.shape == (2, 4, 6)
    scale = whylight.ops.Scale(rectify=True, normalise="both", eps=1e-7)
    assert float((whylight.ops.cam_render(maps, SIZE, scale).values - expected).abs().max()) <= 1e-5
    assert float(expected.max()) > 0.5


@pytest.mark.parametrize("method", [LayerCAM, EigenCAM, ScoreCAM, AblationCAM, ShapleyCAM])
def test_other_methods_take_tokens(model, method):
    options = {"top_k": 3} if "top_k" in method.Options.model_fields else {}
    maps = run_method(method, model, INPUTS, [1, (2, 3)], options).maps
    assert maps.shape == (3, 4, 6)
    assert float(maps.abs().max()) > 0


def test_swin_has_its_channels_last():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = torchvision.models.swin_t(num_classes=5).eval()
    model = wrap_module(network, input_size=SIZE)
    assert model.layout("features.7") == CHANNELS_LAST
    assert model.layout("permute") == MAPS
    maps = [run_method(GradCAM, model, INPUTS[:1], [1], {"layer": name}).maps for name in ("norm", "permute")]
    assert maps[0].shape == (1, 2, 3)
    torch.testing.assert_close(*maps)


def test_what_does_not_lie_on_the_picture_is_refused(model):
    explainer = Explainer({"vit": model}, {"grad-cam": OfferedMethod(GradCAM(), "cam", "whylight")})
    with pytest.raises(whylight.Unsupported, match=r"tokens that lie on the picture; 'head' gives \[5\]") as caught:
        explainer.plan("vit", "grad-cam", {"layer": "head"})
    assert caught.value.violations[0].field == "methods[0].options.layer"


def test_a_grid_that_does_not_fit_the_input_is_refused():
    with pytest.raises(whylight.Unsupported, match="25 tokens for an input of 64 x 64; 1 and a grid of 4 x 4"):
        Layout(1, 1, (16.0, 16.0)).maps(torch.zeros(1, 25, 8), (64, 64))


def test_layouts_by_shapes():
    shapes = [("embed", (192, 4, 6)), ("blocks", (29, 192)), ("swin", (2, 3, 768)), ("text", (77, 64)), ("head", (5,))]
    found = find_layouts(shapes, SIZE)
    assert found == {"embed": MAPS, "blocks": Layout(1, 5, (16.0, 16.0)), "swin": CHANNELS_LAST}
