"""Under its profile, our maps are those of pytorch-grad-cam, to 1e-5, normalised and at the size of the input."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import whylight
from whylight import ops
from whylight.testing import run_method
from whylight_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM

pytorch_grad_cam = pytest.importorskip("pytorch_grad_cam")
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget  # noqa: E402 - after the check that it is there

PAIRS = {
    GradCAM: pytorch_grad_cam.GradCAM,
    GradCAMPlusPlus: pytorch_grad_cam.GradCAMPlusPlus,
    XGradCAM: pytorch_grad_cam.XGradCAM,
    LayerCAM: pytorch_grad_cam.LayerCAM,
    HiResCAM: pytorch_grad_cam.HiResCAM,
}
PROFILE = whylight.PROFILES["pytorch-grad-cam"]
SCALE = ops.Scale(
    rectify=PROFILE.rectify,
    normalise=PROFILE.normalise,
    eps=PROFILE.normalise_eps,
    interpolation=PROFILE.interpolation,
)
TOLERANCE = 1e-5


def theirs(method, network, layer, inputs, classes):
    with PAIRS[method](model=network, target_layers=[network.get_submodule(layer)]) as cam:
        return torch.from_numpy(cam(inputs, [ClassifierOutputTarget(index) for index in classes]))


def telling_classes(method, model, layer, inputs):
    """For each input a class of its own whose map is not zero: parity of black pictures would say nothing."""
    classes = []
    for row in range(len(inputs)):
        candidates = [index for index in range(12) if index not in classes]
        maps = run_method(method, model, inputs[row : row + 1], [candidates], {"layer": layer}).maps
        positive = (maps > 0).float().mean((1, 2)) > 0.05
        assert positive.any()
        classes.append(candidates[int(positive.float().argmax())])
    return classes


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize(
    ("network", "layer"),
    [("resnet18", "layer4.1"), ("resnet18", "layer3.0.conv2"), ("vgg16", "features.29"), ("vgg16", "features.22")],
)
def test_a_network_of_torchvision(method, network, layer, images, request):
    compared, inputs = request.getfixturevalue(network), images[:2]
    classes = telling_classes(method, compared.model, layer, inputs)
    assert len(set(classes)) == len(inputs)

    options = {"layer": layer, "profile": "pytorch-grad-cam"}
    ours = ops.cam_render(run_method(method, compared.model, inputs, classes, options).maps, (96, 128), SCALE).values

    expected = theirs(method, compared.oracle, layer, inputs, classes)
    assert ours.shape == expected.shape == (2, 96, 128)
    assert float(expected.amax((1, 2)).min()) > 0.9
    assert float((ours - expected).abs().max()) <= TOLERANCE


@pytest.mark.parametrize("method", PAIRS)
@pytest.mark.parametrize("layer", ["last-spatial", "blocks.10"])
def test_the_demo_model_explains_photos(method, layer, demo):
    """From a photo to the normalised map, by the way that every caller takes."""
    compared, photos, inputs = demo
    output = whylight.MapOutput(canvas=whylight.Canvas.INPUT, normalised=True)
    explained = whylight.explain(
        compared.model,
        photos,
        method,
        options={"layer": layer, "profile": "pytorch-grad-cam"},
        outputs=[output],
    )
    classes = [one.predictions[0].class_index for one in explained]
    assert [one.predictions[0].label for one in explained] == ["tiger cat", "espresso"]
    assert classes == compared.oracle(inputs).argmax(1).tolist()
    ours = torch.from_numpy(np.stack([one.explanation.map for one in explained]))

    expected = theirs(method, compared.oracle, explained[0].explanation.options["layer"], inputs, classes)
    assert ours.shape == expected.shape == (2, 224, 224)
    assert float(expected.amax((1, 2)).min()) > 0.9
    assert float((ours - expected).abs().max()) <= TOLERANCE
