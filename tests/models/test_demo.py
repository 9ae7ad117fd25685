"""The demo model is EfficientNet-lite0 with its real weights: it knows a cat, a coffee and a rocket."""

from __future__ import annotations

import pytest
import torch
from PIL import Image
from skimage import data

from whylight.method import Need
from whylight.models import ModelConfig, open_model

# research/assets.md section 1; measured there with a crop before the resize, here with a resize before the crop.
TOP_FIVE = {
    "chelsea": ([282, 285, 281, 287, 904], (0.385, 0.363, 0.167)),
    "coffee": ([967, 968, 925, 960, 504], (0.951, 0.015, 0.008)),
    "rocket": ([657, 744, 540, 812, 668], (0.320, 0.211, 0.084)),
}


@pytest.fixture(scope="module")
def demo():
    import whylight_demo

    config = ModelConfig(name="demo", source="demo:efficientnet-lite0")
    return open_model(config, {"demo": whylight_demo.DemoSource})


@pytest.mark.parametrize("name", TOP_FIVE)
def test_photos(name, demo):
    fitted = demo.transform.fit(Image.fromarray(getattr(data, name)()))
    scores = demo.subject().forward(demo.transform.normalise(torch.from_numpy(fitted.pixels)[None]))
    probabilities, classes = scores.softmax(1)[0].topk(5)
    expected, expected_probabilities = TOP_FIVE[name]
    assert classes.tolist() == expected
    torch.testing.assert_close(probabilities[:3], torch.tensor(expected_probabilities), rtol=0, atol=0.05)


def test_it_offers_everything(demo):
    assert demo.capabilities == {Need.GRADIENTS, Need.SPATIAL_LAYER, Need.GAP_HEAD, Need.RELU}
    assert demo.last_spatial == "head"
    assert demo.labels[282] == "tiger cat"
    assert demo.class_count == len(demo.labels) == 1000
    assert demo.batch_invariant


def test_its_labels_are_those_of_torchvisions_networks(demo):
    from torchvision.models import MobileNet_V2_Weights

    assert list(demo.labels) == MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]


@pytest.mark.parametrize("size", [(224, 224), (200, 171), (65, 64)])
def test_it_is_timms_network(size):
    timm = pytest.importorskip("timm")
    from whylight_demo.efficientnet_lite import EfficientNetLite0

    ours = EfficientNetLite0().eval()
    from whylight.models.weights import random_weights

    random_weights(ours, 0)
    theirs = timm.create_model("tf_efficientnet_lite0").eval()
    theirs.load_state_dict(dict(zip(theirs.state_dict(), ours.state_dict().values(), strict=True)))
    inputs = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(inputs), theirs(inputs), rtol=1e-5, atol=1e-5)
