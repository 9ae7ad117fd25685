"""whylight.explain: what it takes, what it gives back, and that it leaves the caller's module alone."""

from __future__ import annotations

import gc
import io
import weakref
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import whylight
from whylight import in_process
from whylight.errors import InvalidInput, MethodFailed, NotFound, Unsupported
from whylight.target import ClassIndex, Rank


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        return self.head(self.drop(self.pool(self.relu(self.conv(x))).flatten(1)))


@pytest.fixture
def net() -> Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Net()


@pytest.fixture
def pixels() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


def test_every_way_to_hand_a_picture_over_gives_the_same(net, pixels, tmp_path):
    picture = Image.fromarray(pixels)
    path = tmp_path / "picture.png"
    picture.save(path)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    expected = whylight.explain(net, pixels).explanation.map
    for image in (str(path), path, buffer.getvalue(), picture, torch.from_numpy(pixels)):
        assert np.array_equal(whylight.explain(net, image).explanation.map, expected)


def test_float_arrays_are_the_models_own_input(net):
    values = torch.rand(3, 32, 48, generator=torch.Generator().manual_seed(0))
    expected = whylight.explain(net, values)
    assert expected.input_size == expected.original_size == (48, 32)
    assert expected.explanation.map.shape == (32, 48)
    for same in (values.numpy(), values.numpy().astype(np.float64)):
        assert np.array_equal(whylight.explain(net, same).explanation.map, expected.explanation.map)
    with torch.no_grad():
        scores = net.eval()(values[None])[0]
    assert expected.predictions[0].class_index == int(scores.argmax())
    assert expected.predictions[0].score == pytest.approx(float(scores.max()), rel=1e-5)


def test_one_image_gives_one_answer_and_many_give_a_list(net, pixels):
    one = whylight.explain(net, pixels)
    assert isinstance(one, whylight.Explained)
    assert [artifact.name for artifact in one.explanation.artifacts] == ["map", "picture"]
    batch = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    for many in ([pixels, pixels], [pixels], (pixels,), batch, batch.numpy(), np.stack([pixels, pixels])):
        answers = whylight.explain(net, many)
        assert isinstance(answers, list)
        assert len(answers) == len(many)
    assert whylight.explain(net, []) == []
    assert np.array_equal(answers[1].explanation.map, one.explanation.map)


def test_more_images_than_a_chunk_are_explained_in_order(net):
    batch = torch.rand(in_process._CHUNK + 3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    answers = whylight.explain(net, batch, outputs=[whylight.MapOutput()])
    for n in (0, in_process._CHUNK - 1, in_process._CHUNK, len(batch) - 1):
        alone = whylight.explain(net, batch[n], outputs=[whylight.MapOutput()])
        assert np.array_equal(answers[n].explanation.map, alone.explanation.map)


def test_targets_of_one_image_and_of_many(net, pixels):
    def asked(images, target):
        answers = whylight.explain(net, images, target=target, outputs=[whylight.MapOutput()])
        answers = answers if isinstance(answers, list) else [answers]
        return [[why.target.index for why in answer.explanations] for answer in answers]

    (top,) = asked(pixels, None)
    assert asked(pixels, 2) == [[2]]
    assert asked(pixels, np.int64(2)) == [[2]]
    assert asked(pixels, torch.tensor(2)) == [[2]]
    assert asked(pixels, [0, 3, Rank(0)]) == [[0, 3, *top]]
    assert asked([pixels, pixels], 1) == [[1], [1]]
    assert asked([pixels, pixels], [1, None]) == [[1], top]
    assert asked([pixels, pixels], [[1, 2], ClassIndex(3)]) == [[1, 2], [3]]
    with pytest.raises(InvalidInput, match="2 images and 3 targets"):
        asked([pixels, pixels], [1, 2, 3])
    with pytest.raises(TypeError, match="a target is"):
        asked(pixels, 1.5)


def test_a_target_that_is_not_there_is_named(net, pixels):
    with pytest.raises(InvalidInput) as caught:
        whylight.explain(net, pixels, target=[0, 4])
    assert (caught.value.reason, caught.value.violations[0].field) == ("TARGET_INVALID", "images.targets[1]")
    with pytest.raises(NotFound) as caught:
        whylight.explain(net, [pixels, pixels], target=[0, "cat"])
    assert (caught.value.reason, caught.value.violations[0].field) == ("LABEL_NOT_FOUND", "images[1].targets[0]")


def test_a_bad_image_is_named(net, pixels, tmp_path):
    for image, reason in ((b"no", "IMAGE_UNREADABLE"), (tmp_path / "none.png", "IMAGE_UNREADABLE")):
        with pytest.raises(InvalidInput) as caught:
            whylight.explain(net, [pixels, image])
        assert (caught.value.reason, caught.value.violations[0].field) == (reason, "images[1].image")
    with pytest.raises(InvalidInput, match="NaN"):
        whylight.explain(net, np.full((3, 8, 8), np.nan, np.float32))
    with pytest.raises(TypeError, match="an image is"):
        whylight.explain(net, 5)


def test_names_that_are_not_there_come_with_close_ones(net, pixels):
    with pytest.raises(NotFound, match="grad-cam") as caught:
        whylight.explain(net, pixels, "grad-camm")
    assert caught.value.reason == "METHOD_NOT_FOUND"
    with pytest.raises(NotFound) as caught:
        whylight.explain("nonesuch", pixels)
    assert caught.value.reason == "MODEL_NOT_FOUND"
    with pytest.raises(NotFound) as caught:
        whylight.explain(net, pixels, options={"layer": "conw"})
    assert caught.value.reason == "LAYER_NOT_FOUND"
    with pytest.raises(TypeError, match="model is"):
        whylight.explain(5, pixels)


def test_the_callers_module_is_left_as_it_is(net, pixels):
    net.train()
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    whylight.explain(net, pixels)
    assert net.training
    assert net.relu.inplace
    assert all(parameter.requires_grad for parameter in net.parameters())
    assert torch.equal(net.conv.weight.grad, torch.ones_like(net.conv.weight))
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in net.modules())


def test_a_module_is_prepared_once_and_again_when_its_tensors_or_layers_are_exchanged(net, pixels):
    first = in_process._prepared.of(net, None)
    assert in_process._prepared.of(net, None) is first
    before = whylight.explain(net, pixels, target=0).explanation.map
    with torch.no_grad():
        net.head.weight.neg_()  # in place: seen through the shared storage
    assert in_process._prepared.of(net, None) is first
    changed = whylight.explain(net, pixels, target=0).explanation
    assert not np.array_equal(changed.map, before)
    with torch.no_grad():
        assert changed.target_score == pytest.approx(float(net.eval()(_as_seen(first, pixels))[0, 0]), rel=1e-5)
    net.head = nn.Linear(6, 2)
    assert in_process._prepared.of(net, None) is not first
    assert len(whylight.explain(net, pixels).predictions) == 2


def _as_seen(model, pixels):
    return model.transform.normalise(torch.from_numpy(model.transform.fit(Image.fromarray(pixels)).pixels)[None])


def test_preparing_keeps_no_module_alive(pixels):
    net = Net()
    whylight.explain(net, pixels)
    gone = weakref.ref(net)
    del net
    gc.collect()
    assert gone() is None


class Noise(whylight.Attribution):
    """Noise."""

    name = "noise"
    stochastic = True

    def attribute(self, subject, batch, options):
        return torch.stack([torch.rand(4, 4, generator=batch.generator(row)) for row in batch.rows])


class Broken(whylight.Attribution):
    """Broken."""

    name = "broken"

    def attribute(self, subject, batch, options):
        raise KeyError("the cause")


def test_a_method_of_ones_own(net, pixels):
    drawn = whylight.explain(net, pixels, Noise).explanation
    again = whylight.explain(net, pixels, Noise(), seed=drawn.seed).explanation
    other = whylight.explain(net, pixels, Noise).explanation
    assert again.seed == drawn.seed != other.seed
    assert np.array_equal(again.map, drawn.map)
    assert not np.array_equal(other.map, drawn.map)
    assert whylight.explain(net, pixels).explanation.seed is None
    with pytest.raises(TypeError, match="method is"):
        whylight.explain(net, pixels, dict)


def test_a_broken_method_shows_its_author_the_cause(net, pixels):
    with pytest.raises(MethodFailed) as caught:
        whylight.explain(net, pixels, Broken)
    assert isinstance(caught.value.__cause__, KeyError)
    assert "the cause" not in str(caught.value)


def test_options_as_a_dict_or_as_an_object(net, pixels):
    from whylight_cam import GradCAM

    as_dict = whylight.explain(net, pixels, "grad-cam", options={"layer": "conv", "profile": "captum"})
    as_object = whylight.explain(net, pixels, GradCAM, options=GradCAM.Options(layer="conv", profile="captum"))
    assert as_dict.explanation.options == as_object.explanation.options
    assert {"layer": "conv", "profile": "captum"}.items() <= as_dict.explanation.options.items()
    assert np.array_equal(as_dict.explanation.map, as_object.explanation.map)


def test_what_a_module_cannot_do_is_said_before_it_runs(pixels):
    flat = nn.Sequential(nn.Flatten(), nn.Linear(3 * 224 * 224, 2))
    with pytest.raises(Unsupported, match="spatial-layer"):
        whylight.explain(flat, pixels)


def test_many_threads_on_one_module_give_the_sequential_answers(net):
    pictures = [np.random.default_rng(n).integers(0, 256, (40, 50, 3), np.uint8) for n in range(3)]
    calls = [(p, method, index) for p in pictures for method in ("grad-cam", "layer-cam") for index in (0, 3)]

    def answer(call):
        why = whylight.explain(net, call[0], call[1], call[2]).explanation
        return why.map.tobytes(), why.picture.data

    expected = [answer(call) for call in calls]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(answer, calls * 2)) == expected * 2
