"""Targets beyond one number: contrast, mask, detection, likeness; their values and gradients against plain autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import whylight
from whylight.errors import InvalidInput, Unsupported
from whylight.models import wrap_module
from whylight.subject import CancelToken
from whylight.testing.running import batch_of

EXACT = {"rtol": 1e-12, "atol": 1e-12}


def seeded(build) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build().double().eval()


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


class Dense(nn.Module):
    """A class for each of 8 x 12 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1, stride=2)
        self.two = nn.Conv2d(6, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(x)))


class Detector(nn.Module):
    """A box of 8 x 8 pixels around each of 2 x 3 places, with three scores each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.score = nn.Conv2d(6, 3, 8, stride=8)

    def forward(self, x: Tensor) -> Tensor:
        scores = self.score(torch.tanh(self.conv(x))).flatten(2).transpose(1, 2)
        rows, columns = torch.meshgrid(torch.arange(2), torch.arange(3), indexing="ij")
        corners = torch.stack((columns, rows, columns + 1, rows + 1), dim=2).flatten(0, 1) * 8
        return torch.cat((corners.to(x).expand(len(x), -1, -1), scores), dim=2)


class Listing(Detector):
    """The same, answering as torchvision's detectors do: what scores above 0 for a class, the best first."""

    detections_per_img = 18

    def forward(self, x: Tensor) -> list[dict[str, Tensor]]:
        found = []
        for one in super().forward(x):
            place, label = (one[:, 4:] > 0).nonzero(as_tuple=True)
            scores, order = one[place, 4 + label].sort(descending=True)
            found.append({"boxes": one[place, :4][order], "scores": scores, "labels": label[order]})
        return found


def check(net, model, inputs, target, scalar, rows=(0, 1)):
    """Compare values and gradients, at the input, of two rows with `scalar` of the net's own output for one row."""
    batch = whylight.Batch(inputs, (target,) * len(rows), tuple(rows), CancelToken())
    subject = model.subject()
    gradients = subject.input_gradients(batch)
    values = [resolved.score for resolved in subject.resolve(batch)]
    for place, row in enumerate(rows):
        leaf = inputs[row : row + 1].clone().requires_grad_(True)
        expected = scalar(net(leaf), row)
        torch.testing.assert_close(values[place], expected.item(), **EXACT)
        (gradient,) = torch.autograd.grad(expected, leaf)
        assert gradient.abs().max() > 0
        torch.testing.assert_close(gradients[place], gradient[0], **EXACT)
    return subject.resolve(batch)


@pytest.fixture
def pictures(noise):
    return noise(2, 16, 24)


def test_a_contrast_is_a_difference(pictures):
    net = seeded(Classifier)
    model = wrap_module(net, input_size=(16, 24), labels=tuple("abcde"))
    resolved = check(net, model, pictures, whylight.Contrast("d", 1), lambda out, row: out[0, 3] - out[0, 1])
    assert resolved[0].target == whylight.Contrast(whylight.ClassIndex(3), whylight.ClassIndex(1))
    assert resolved[0].label == "d rather than b"
    element = whylight.Contrast(whylight.OutputIndex((4,)), 0)
    check(net, model, pictures, element, lambda out, row: out[0, 4] - out[0, 0])

    def first_two(out, row):
        best = out[0].topk(2).values
        return best[0] - best[1]

    found = check(net, model, pictures, whylight.Contrast(whylight.Rank(0), whylight.Rank(1)), first_two)
    for what, picture in zip(found, pictures, strict=True):
        best, second = net(picture[None])[0].topk(2).indices.tolist()
        assert what.target == whylight.Contrast(best, second)


def test_a_mask_is_laid_over_the_output(pictures):
    net = seeded(Dense)
    model = wrap_module(net, input_size=(16, 24))
    for height, width in ((8, 12), (16, 24), (5, 7), (1, 2)):
        mask = (np.random.default_rng(height).random((height, width)) < 0.5).astype(np.uint8)
        mask[0, 0] = 1
        nearest = F.interpolate(torch.from_numpy(mask)[None, None].double(), (8, 12), mode="nearest-exact")[0, 0]
        target = whylight.Region(2, mask=mask)
        check(net, model, pictures, target, lambda out, row, at=nearest: (out[0, 2] * at).sum())
    fine = np.zeros((64, 64), np.uint8)
    fine[0, 0] = 1
    with pytest.raises(InvalidInput, match="marks no element") as caught:
        model.subject().resolve(batch_of(pictures, [whylight.Region(1, mask=fine)] * 2))
    assert caught.value.reason == "TARGET_INVALID"


@pytest.mark.parametrize("boxes", ["pixels", "fractions"])
def test_the_best_score_of_the_predictions_at_a_box(pictures, boxes):
    net = seeded(Detector)

    class InFractions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, x: Tensor) -> Tensor:
            out = self.net(x)
            return torch.cat((out[..., :4] / out.new_tensor([24, 16, 24, 16]), out[..., 4:]), 2)

    model = wrap_module(net if boxes == "pixels" else InFractions(), input_size=(16, 24), boxes=boxes)
    at = (0.35, 0.05, 0.65, 0.5)  # over the second place of the first row
    check(net, model, pictures, whylight.Detection(2, *at), lambda out, row: out[0, 1, 6])
    check(net, model, pictures, whylight.Detection(None, *at), lambda out, row: out[0, 1, 4:].max())
    with pytest.raises(InvalidInput, match="class 3"):
        model.check_target(whylight.Detection(3, *at))
    between = whylight.Detection(0, 0.16, 0.25, 0.5, 0.75)
    with pytest.raises(InvalidInput, match=r"no detection of class 0 overlaps the box by 0.5"):
        model.subject().input_gradients(batch_of(pictures, [between] * 2))


def test_listed_detections(pictures):
    net, plain = seeded(Listing), seeded(Detector)
    model = wrap_module(net, input_size=(16, 24))
    assert model.detections == "listed"
    assert model.output_shape == (18, 6)
    assert model.last_spatial is None
    scores = plain(pictures)[..., 4:]
    found = 0
    for row in range(2):
        for place, label in (scores[row] > 0).nonzero().tolist():
            top, left = place // 3 / 2, place % 3 / 3
            target = whylight.Detection(label, left, top, left + 1 / 3, top + 1 / 2)
            check(
                plain,
                model,
                pictures,
                target,
                lambda out, row, at=(place, label): out[0, at[0], 4 + at[1]],
                rows=(row,),
            )
            found += 1
    assert found > 4
    missing = (scores[0] <= 0).nonzero()[0].tolist()
    top, left = missing[0] // 3 / 2, missing[0] % 3 / 3
    target = whylight.Detection(missing[1], left, top, left + 1 / 3, top + 1 / 2)
    with pytest.raises(InvalidInput, match="no detection of class"):
        model.subject().resolve(batch_of(pictures, [target, target]))


def test_a_copy_without_the_detection_scores_nothing(pictures):
    """What an alteration takes away is an answer, not an error."""
    net, plain = seeded(Listing), seeded(Detector)
    place, label = (plain(pictures)[0, :, 4:] > 0).nonzero()[0].tolist()
    top, left = place // 3 / 2, place % 3 / 3
    target = whylight.Detection(label, left, top, left + 1 / 3, top + 1 / 2)
    batch = batch_of(pictures[:1], [target])
    subject = wrap_module(net, input_size=(16, 24)).subject()
    copies = [pictures[:1], torch.full_like(pictures[:1], 1e3), torch.full_like(pictures[:1], -1e3)]
    values = [float(scores[0]) for scores in subject.altered_scores(batch, 3, lambda k: copies[k])]
    expected = [max(plain(copy)[0, place, 4 + label].item(), 0.0) for copy in copies]
    assert 0.0 in expected
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_a_box_needs_a_detector(pictures):
    model = wrap_module(seeded(Dense), input_size=(16, 24))
    with pytest.raises(Unsupported, match="not known to be detections") as caught:
        model.check_target(whylight.Detection(0, 0, 0, 1, 1))
    assert caught.value.reason == "TARGET_UNSUPPORTED"


def test_the_likeness_to_an_embedding(pictures):
    net = seeded(Classifier)
    model = wrap_module(net, input_size=(16, 24))
    direction = torch.tensor([1.0, -2.0, 0.5, 3.0, 0.1], dtype=torch.float64)
    target = whylight.Similarity(embedding=direction.numpy())
    check(net, model, pictures, target, lambda out, row: F.cosine_similarity(out[0], direction, dim=0))
    with pytest.raises(InvalidInput, match="4 numbers; what is compared has 5"):
        model.check_target(whylight.Similarity(embedding=[1.0, 2.0, 3.0, 4.0]))


def test_the_likeness_of_what_a_layer_makes(pictures):
    net = seeded(Classifier)
    model = wrap_module(net, input_size=(16, 24))
    reference = net.conv(pictures[1:2]).detach().flatten()
    target = whylight.Similarity(embedding=reference.numpy(), layer="conv")
    batch = batch_of(pictures, [target, target])
    gradients = model.subject().input_gradients(batch)
    leaf = pictures.clone().requires_grad_(True)
    values = F.cosine_similarity(net.conv(leaf).flatten(1), reference[None], dim=1)
    (expected,) = torch.autograd.grad(values.sum(), leaf)
    torch.testing.assert_close(gradients, expected, **EXACT)
    scores = [resolved.score for resolved in model.subject().resolve(batch)]
    np.testing.assert_allclose(scores, values.tolist(), rtol=1e-12)
    assert scores[1] == pytest.approx(1.0, abs=1e-12)


def test_a_reference_is_asked_about_by_the_same_model(pictures):
    net = seeded(Classifier).float()
    model = wrap_module(net, input_size=(16, 24))
    one, other = pictures.float().numpy()
    target = whylight.Similarity(other)
    explanation = whylight.explain(model, one, "saliency", target).explanation
    expected = F.cosine_similarity(net(torch.from_numpy(one)[None]), net(torch.from_numpy(other)[None]))
    assert explanation.target_score == pytest.approx(expected.item(), abs=1e-6)
    assert explanation.target.image is None  # the answer has the embedding
    np.testing.assert_allclose(
        explanation.target.embedding.numpy(), net(torch.from_numpy(other)[None])[0].detach(), atol=1e-6
    )
    again = whylight.explain(model, one, "saliency", explanation.target).explanation
    assert np.array_equal(again.map, explanation.map)
    alone = whylight.explain(model, [one, other, one], "saliency", [0, target, target])
    assert np.array_equal(alone[2].explanation.map, explanation.map)
    assert alone[1].explanation.target_score == pytest.approx(1.0, abs=1e-6)


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: whylight.Contrast(whylight.Neuron("conv", 1), 0), "contrast.positive"),
        (lambda: whylight.Region(0, mask=np.zeros((4, 4), np.uint8)), "region.mask"),
        (lambda: whylight.Region(0, mask=np.ones((4, 4, 1), np.uint8)), "region.mask.shape"),
        (lambda: whylight.Region(0, mask=np.ones((1025, 1024), bool)), "region.mask.shape"),
        (lambda: whylight.Region(0, 0, 0, 0.5, 1, mask=np.ones((2, 2), bool)), "region.mask"),
        (lambda: whylight.Detection(0, 0.5, 0, 0.5, 1), "detection"),
        (lambda: whylight.Similarity(), "similarity"),
        (lambda: whylight.Similarity(b"file", embedding=[1.0]), "similarity"),
        (lambda: whylight.Similarity(embedding=[0.0, 0.0]), "similarity.embedding"),
        (lambda: whylight.Similarity(embedding=[float("nan")]), "similarity.embedding"),
        (lambda: whylight.Similarity("/no/such/file.png"), "similarity.image"),
        (lambda: whylight.Similarity(3), "similarity.image"),
    ],
)
def test_what_is_no_target_is_refused_when_it_is_made(make, field):
    with pytest.raises(InvalidInput) as caught:
        make()
    assert caught.value.violations[0].field == field
