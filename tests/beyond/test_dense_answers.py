"""Segmentation, detection and likeness, in process and through the real server."""

from __future__ import annotations

import io

import beyond_models as nets
import numpy as np
import pytest
import skimage.data
import torch
import torch.nn.functional as F
from beyond_models import DETECTOR, FULLY_CONVOLUTIONAL
from PIL import Image

import whylight
from whylight.client import Input
from whylight.errors import InvalidInput, Unsupported
from whylight.models import ModelConfig, open_model, wrap_module
from whylight.models.source import PythonSource

MAP = [whylight.MapOutput()]


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.asarray(Image.fromarray(skimage.data.astronaut()).resize((96, 64)))


def as_input(photo: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255


def test_a_served_segmentation_over_a_mask_and_over_a_rectangle(client, photo):
    mask = np.zeros((8, 12), np.uint8)
    mask[2:6, 3:9] = 1
    targets = [whylight.Region(3, mask=mask), whylight.Region(3, 0.25, 0.25, 0.75, 0.75)]
    for method in ("saliency", "grad-cam"):
        answer = client.explain(photo, method, model="segmenter", target=targets, outputs=MAP)
        masked, boxed = answer.explanations
        assert masked.target == targets[0]
        assert boxed.target == targets[1]
        # The mask marks the very elements of the rectangle: one is the other, but for the order of a sum.
        assert masked.target_score == pytest.approx(boxed.target_score, rel=1e-4)
        assert masked.map.any()
        np.testing.assert_allclose(masked.map, boxed.map, rtol=1e-2, atol=1e-3 * np.abs(boxed.map).max())
    config = ModelConfig(**FULLY_CONVOLUTIONAL)
    module = open_model(config, {"python": PythonSource}).module
    with torch.no_grad():
        score = module(as_input(photo))["out"][0, 3, 16:48, 24:72].sum()
    assert masked.target_score == pytest.approx(float(score), rel=1e-3)
    small = np.zeros((256, 256), np.uint8)
    small[0, 0] = 1
    (refused,) = client.explain([Input(photo, whylight.Region(0, mask=small))], model="segmenter", method="saliency")
    assert (refused.reason, refused.violations[0].field) == ("TARGET_INVALID", "inputs[0].targets[0]")


@pytest.fixture(scope="module")
def detector() -> whylight.Model:
    return open_model(ModelConfig(**DETECTOR), {"python": PythonSource})


def test_a_served_detection_of_faster_rcnn(client, detector, photo):
    module = nets.detector().module.eval()
    leaf = as_input(photo).requires_grad_(True)
    (found,) = module(leaf)
    left, top, right, bottom = (found["boxes"][0].detach() / torch.tensor([96, 64, 96, 64])).clamp(0, 1).tolist()
    target = whylight.Detection(int(found["labels"][0]), left, top, right, bottom)
    assert (detector.detections, detector.output_shape) == ("listed", (12, 6))
    assert client.model("detector").capabilities == ("detections", "gradients", "relu", "spatial-layer")
    answer = client.explain(photo, "saliency", model="detector", target=target, outputs=MAP)
    assert answer.explanation.target_score == pytest.approx(found["scores"][0].item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(found["scores"][0], leaf)
    expected = gradient[0].abs().amax(0).numpy()
    assert expected.any()
    np.testing.assert_allclose(answer.explanation.map, expected, rtol=1e-2, atol=1e-3 * expected.max())
    cam = client.explain(photo, "grad-cam", model="detector", target=target, outputs=MAP)
    assert cam.explanation.options["layer"] == "backbone.body.layer4"
    nothing = whylight.Detection(1, 0.0, 0.0, 0.001, 0.001)
    whole, refused = client.explain(
        [Input(photo, target), Input(photo, nothing)], "saliency", model="detector", outputs=MAP
    )
    assert np.array_equal(whole.explanation.map, answer.explanation.map)
    assert isinstance(refused, InvalidInput)
    assert "no detection of class 1 overlaps the box" in refused.message
    assert refused.violations[0].field == "inputs[1].targets[0]"


def test_what_a_detector_sees_one_box_at_a_time_is_no_layer_to_explain_by(detector, photo):
    target = whylight.Detection(None, 0.0, 0.0, 1.0, 1.0)
    with pytest.raises(Unsupported, match=r"not one row for each|does not lie on the picture|tokens that lie"):
        whylight.explain(detector, photo, "grad-cam", target, options={"layer": "roi_heads.box_roi_pool"})


def test_ssdlite_is_a_detector_too():
    from torchvision.models import detection

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = detection.ssdlite320_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=3, score_thresh=0.0, detections_per_img=5
        ).eval()
    model = wrap_module(net, input_size=(320, 320))
    assert (model.detections, model.output_shape) == ("listed", (5, 6))
    inputs = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    leaf = inputs.clone().requires_grad_(True)
    (found,) = net(leaf)
    box = (found["boxes"][0].detach() / 320).clamp(0, 1).tolist()
    target = whylight.Detection(int(found["labels"][0]), *box)
    answer = whylight.explain(model, inputs[0], "saliency", target, outputs=MAP)
    assert answer.explanation.target_score == pytest.approx(found["scores"][0].item(), abs=1e-5)
    (gradient,) = torch.autograd.grad(found["scores"][0], leaf)
    expected = gradient[0].abs().amax(0).numpy()
    np.testing.assert_allclose(answer.explanation.map, expected, rtol=1e-2, atol=1e-3 * expected.max())


def test_a_served_likeness_to_a_picture(client, photo):
    other = np.asarray(Image.fromarray(skimage.data.chelsea()).resize((80, 64)))
    file = io.BytesIO()
    Image.fromarray(other).save(file, "PNG")
    targets = [whylight.Similarity(file.getvalue(), layer="avgpool"), whylight.Similarity(other, layer="avgpool")]
    answer = client.explain(photo, "grad-cam", model="encoder", target=targets, outputs=MAP)
    from_file, from_pixels = answer.explanations
    assert np.array_equal(from_file.map, from_pixels.map)
    assert from_file.target.image is None
    assert from_file.target.layer == "avgpool"
    given = client.explain(photo, "grad-cam", model="encoder", target=from_file.target, outputs=MAP).explanation
    assert np.array_equal(given.map, from_file.map)
    assert -1 < from_file.target_score < 1
    embedded = [torch.from_numpy(from_file.target.embedding.numpy().copy())]
    itself = client.explain(photo, "saliency", model="encoder", target=whylight.Similarity(photo, layer="avgpool"))
    assert itself.explanation.target_score == pytest.approx(1.0, abs=1e-5)
    embedded.append(torch.from_numpy(itself.explanation.target.embedding.numpy().copy()))
    assert from_file.target_score == pytest.approx(float(F.cosine_similarity(*embedded, dim=0)), abs=1e-5)


@pytest.mark.parametrize(
    ("target", "reason", "field"),
    [
        (whylight.Similarity(b"no picture"), "IMAGE_UNREADABLE", "inputs[0].targets[0].similarity.image"),
        (
            whylight.Similarity(np.full((3, 64, 64), np.nan, np.float32)),
            "TENSOR_INVALID",
            "inputs[0].targets[0].similarity.tensor.data",
        ),
        (whylight.Similarity(embedding=[1.0, 2.0]), "TARGET_INVALID", "inputs[0].targets[0]"),
        (whylight.Detection(0, 0, 0, 1, 1), "TARGET_UNSUPPORTED", "inputs[0].targets[0]"),
        (whylight.Region(0, mask=np.ones((2, 2), bool)), "TARGET_UNSUPPORTED", "inputs[0].targets[0]"),
        (whylight.Similarity(b"x", layer="nowhere"), "LAYER_NOT_FOUND", "inputs[0].targets[0].similarity.layer"),
    ],
)
def test_what_a_classifier_cannot_answer_is_refused_in_its_place(client, photo, target, reason, field):
    if target == whylight.Similarity(b"x", layer="nowhere"):
        file = io.BytesIO()
        Image.fromarray(photo).save(file, "PNG")
        target = whylight.Similarity(file.getvalue(), layer="nowhere")
    (refused,) = client.explain([Input(photo, target)], "saliency", model="encoder")
    assert (refused.reason, refused.violations[0].field) == (reason, field)
