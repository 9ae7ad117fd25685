"""The loop and its parts: gradients of plain autograd, no influence between images, every part doing what it says."""

from __future__ import annotations

import importlib
import types

import pytest
import torch
import torch.nn.functional as F

import whylight
from whylight import ops, synthesis
from whylight.errors import Cancelled, InvalidInput
from whylight.models import Transform, wrap_module
from whylight.subject import CancelToken
from whylight.synthesis.parametrisation import colour_root, spectrum_scale
from whylight.testing import relu_net

SIZE = (24, 32)
TRANSFORM = Transform(SIZE, None, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3), channel_order="bgr")


def generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


def start(count, dtype=torch.float64):
    return 0.2 + 0.6 * torch.rand(count, 3, *SIZE, generator=torch.Generator().manual_seed(1), dtype=dtype)


@pytest.fixture
def subject():
    return wrap_module(relu_net().double(), transform=TRANSFORM).subject()


def normalised(images):
    mean = torch.tensor([0.4, 0.5, 0.6], dtype=images.dtype)[:, None, None]
    std = torch.tensor([0.2, 0.25, 0.3], dtype=images.dtype)[:, None, None]
    return (images.flip(1) - mean) / std


def steps_of(*given, **named):
    return (step for step in synthesis.optimise(*given, **named) if isinstance(step, synthesis.Step))


def test_images_and_inputs_are_each_other(subject):
    images = start(2)
    inputs = subject.inputs_of(images)
    torch.testing.assert_close(inputs, normalised(images), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(subject.images_of(inputs), images, rtol=1e-12, atol=1e-12)


def test_a_step_goes_down_the_gradient_of_the_weighted_sum(subject):
    net, images = relu_net().double(), start(2)
    reference = torch.rand(2, 10, 12, 16, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    style = ops.gram(reference)
    terms = [
        synthesis.Score(2.0, aims=(subject.aim(whylight.ClassIndex(3)), subject.aim(whylight.ClassIndex(1)))),
        synthesis.LogProbability(0.5, classes=(3, 1)),
        synthesis.Excitation(3.0, layer="features.0", channels=(None, 2)),
        synthesis.FeatureDistance(0.7, layer="features.3", reference=reference),
        synthesis.GramDistance(
            0.3, references={"features.3": style}, layer_weights={"features.3": torch.tensor([2.0, 1.0]).double()}
        ),
        synthesis.CosineSimilarity(0.4, layer="features.3", direction=reference),
        synthesis.L2(1.5),
        synthesis.L1(0.2),
        synthesis.TotalVariation(0.9, beta=2.5),
    ]
    held = synthesis.Pixels(images, low=-10, high=10)
    (step,) = steps_of(subject, held, terms, steps=1, learning_rate=0.01, optimiser="sgd")

    leaf = images.clone().requires_grad_(True)
    inputs = normalised(leaf)
    first = net.features[0](inputs)
    third = net.features[:4](inputs)
    scores = net(inputs)
    product = (third * reference).flatten(1).sum(1)
    cosine = F.cosine_similarity(third.flatten(1), reference.flatten(1))
    flat = third.flatten(2)
    grams = flat @ flat.mT / (2 * 10 * 12 * 16)
    dx, dy = F.pad(leaf.diff(dim=3), (0, 1)), F.pad(leaf.diff(dim=2), (0, 0, 0, 1))
    expected = {
        "score": -scores[[0, 1], [3, 1]],
        "log_probability": -scores.log_softmax(1)[[0, 1], [3, 1]],
        "excitation": -torch.stack([first[0].square().mean(), first[1, 2].square().mean()]),
        "features": (third - reference).square().flatten(1).sum(1) / reference.square().flatten(1).sum(1),
        "gram": torch.tensor([2.0, 1.0]) * (grams - style).square().sum((1, 2)),
        "similarity": -product * cosine.clamp_min(0.1) / reference[0].numel(),
        "l2": (leaf - 0.5).square().flatten(1).mean(1),
        "l1": leaf.abs().flatten(1).mean(1),
        "total_variation": (dx.square() + dy.square()).pow(1.25).flatten(1).mean(1),
    }
    for name, values in expected.items():
        torch.testing.assert_close(step.losses[name], values.detach(), rtol=1e-9, atol=1e-12)
    total = sum(term.weight * expected[term.name] for term in terms).sum()
    (gradient,) = torch.autograd.grad(total, leaf)
    torch.testing.assert_close(step.images, (leaf - 0.01 * gradient).detach(), rtol=1e-9, atol=1e-12)


PARTS = {
    "pixels": (lambda images, g: synthesis.Pixels(images), "adam", synthesis.Robustness(jitter=3)),
    "normalised": (lambda images, g: synthesis.Pixels(images), "normalised", None),
    "fourier": (lambda images, g: synthesis.Fourier(images), "adam", synthesis.Robustness(2, 10.0, 0.1)),
    "noise": (
        lambda images, g: synthesis.Fourier.noise((3, *SIZE), g, images),
        "adam",
        synthesis.Robustness(rotate=5.0),
    ),
}


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("threads", [1, 2])
def test_an_image_gets_the_bits_that_it_gets_alone(parts, threads):
    make, optimiser, robustness = PARTS[parts]
    subject = wrap_module(relu_net(), transform=TRANSFORM).subject()
    images = start(4, torch.float32)
    classes = (0, 1, 2, 3)
    operators = () if parts in ("fourier", "noise") else (synthesis.GaussianBlur(2), synthesis.ClipSmallNorm(3, 0.2))

    def made(rows):
        drawn = [torch.Generator().manual_seed(row) for row in rows]
        terms = [synthesis.LogProbability(classes=tuple(classes[row] for row in rows)), synthesis.TotalVariation(0.1)]
        *_, last = steps_of(
            subject,
            make(images[list(rows)], drawn),
            terms,
            steps=7,
            learning_rate=0.02,
            optimiser=optimiser,
            robustness=robustness,
            operators=operators,
            generators=drawn,
        )
        return last.images

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        together = made(range(4))
        for row in range(4):
            assert torch.equal(made([row])[0], together[row])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("robustness", [None, synthesis.Robustness(2, 5.0, 0.1)])
def test_passes_are_small_while_others_use_the_pauses_and_bits_stay(robustness, monkeypatch):
    loop = importlib.import_module("whylight.synthesis.optimise")
    monkeypatch.setattr(loop, "COMPANY_BYTES", 1)
    clock = [100.0]
    monkeypatch.setattr(loop, "time", types.SimpleNamespace(monotonic=lambda: clock[0]))
    subject = wrap_module(relu_net(), transform=TRANSFORM).subject()

    def made(pause, steps=3):
        """Return the pauses of each step, and its images; every pause takes `pause` seconds."""
        terms = [synthesis.LogProbability(classes=(0, 1, 2)), synthesis.TotalVariation(0.1)]
        held = synthesis.Pixels(start(3, torch.float32))
        events = synthesis.optimise(
            subject, held, terms, steps=steps, learning_rate=0.02, robustness=robustness, generators=generators(3)
        )
        pauses, images = [0], []
        for event in events:
            if isinstance(event, whylight.Pause):
                pauses[-1] += 1
                clock[0] += pause
            else:
                images.append(event.images)
                pauses.append(0)
        return pauses[:-1], images

    alone, before = made(0.0)
    beside, after = made(0.01)
    # Between there and back of each pass, and between passes: one image, which tells that nobody comes, then the rest.
    assert alone == [3, 1, 1]
    assert beside == [5, 5, 5]
    assert all(map(torch.equal, before, after))
    monkeypatch.setattr(loop, "ALONE_BYTES", 1)
    assert made(0.0)[0] == [5, 5, 5]


def test_pictures_larger_than_the_usual_share_the_memory(subject, monkeypatch):
    usual = subject.rows_with_gradients()
    monkeypatch.setattr(subject.model, "budget", 4 * subject.model.findings.bytes_per_row(""))
    assert subject.rows_with_gradients() == 4 < usual
    assert [subject.rows_with_gradients(share) for share in (0.5, 1.0, 2.0, 3.0, 100.0)] == [4, 4, 2, 1, 1]


def test_images_that_are_finished_stay_as_they_were_seen(subject):
    images = start(2)

    def stop(sight):
        return torch.tensor([row == 1 for row in sight.rows])

    term = synthesis.LogProbability(classes=(0, 0))
    steps = list(
        steps_of(subject, synthesis.Pixels(images), [term], steps=3, learning_rate=0.1, stop=stop, optimiser="sgd")
    )
    assert [step.stopped.tolist() for step in steps] == [[False, True]] * 3
    assert torch.equal(steps[-1].images[1], images[1])
    assert not torch.equal(steps[-1].images[0], images[0])


def test_it_ends_when_all_are_finished(subject):
    def stop(sight):
        return torch.ones(len(sight.rows), dtype=torch.bool)

    held = synthesis.Pixels(start(2))
    assert len(list(steps_of(subject, held, [synthesis.L2()], steps=9, learning_rate=0.1, stop=stop))) == 1


def test_cancelling_stops_it_at_the_next_step(subject):
    cancel = CancelToken()
    steps = steps_of(subject, synthesis.Pixels(start(1)), [synthesis.L2()], steps=9, learning_rate=0.1, cancel=cancel)
    next(steps)
    cancel.cancel()
    with pytest.raises(Cancelled):
        next(steps)


def test_periods_and_schedules():
    term = synthesis.L2(2.0, period=2, schedule="rising")
    assert [term.factor(step, 5) for step in range(5)] == [0.0, 0.0, 1.0, 0.0, 2.0]
    assert [synthesis.L2(3.0, schedule="falling").factor(step, 3) for step in range(3)] == [3.0, 1.5, 0.0]
    assert synthesis.GaussianBlur(3).is_due(2)
    assert not synthesis.GaussianBlur(3).is_due(3)


def test_operators_blank_just_the_share_they_say():
    images = start(2)
    few = synthesis.ClipSmallNorm(share=0.25).apply(images, images)
    blanked = (few == 0.5).all(1)
    assert blanked.flatten(1).sum(1).tolist() == [SIZE[0] * SIZE[1] // 4] * 2
    norms = (images - 0.5).square().sum(1)
    for image in range(2):
        assert norms[image][blanked[image]].max() <= norms[image][~blanked[image]].min()
    gradients = start(2).flip(0)
    few = synthesis.ClipSmallContribution(share=0.5).apply(images, gradients)
    kept = ~(few == 0.5).all(1)
    strength = ((images - 0.5) * gradients).sum(1).abs()
    for image in range(2):
        assert strength[image][~kept[image]].max() <= strength[image][kept[image]].min()


def test_what_is_too_far_is_brought_back_and_nothing_else():
    images = start(2)
    reference = images + torch.tensor([0.01, 0.1])[:, None, None, None]
    near = synthesis.StayNear(reference=reference, radius=1.0).apply(images, images)
    torch.testing.assert_close(near[0], images[0], rtol=0, atol=1e-12)
    assert (near[1] - reference[1]).norm() == pytest.approx(1.0)
    torch.testing.assert_close(
        (near[1] - reference[1]) / 1.0, (images[1] - reference[1]) / (images[1] - reference[1]).norm()
    )


def test_a_spectrum_holds_the_image_that_it_began_with():
    images = start(2)
    torch.testing.assert_close(synthesis.Fourier(images).images(), images, rtol=1e-9, atol=1e-9)
    grey = images[:, :1]
    torch.testing.assert_close(synthesis.Fourier(grey).images(), grey, rtol=1e-9, atol=1e-9)


def test_a_spectrum_takes_changed_images():
    images = start(2)
    held = synthesis.Fourier(images)
    blurred = synthesis.GaussianBlur(sigma=1.0).apply(images, images)
    held.replace(blurred)
    torch.testing.assert_close(held.images(), blurred, rtol=1e-9, atol=1e-9)
    assert held.parameter.requires_grad
    assert held.parameter.is_leaf


def test_a_spectrum_scales_every_frequency_by_its_wavelength():
    scale = spectrum_scale((8, 10))
    assert scale.shape == (8, 6)
    assert scale[0, 1] == pytest.approx(10)
    assert scale[4, 0] == pytest.approx(2)
    assert scale[0, 0] == 10


def test_phases_keep_the_magnitudes():
    magnitude = torch.rand(3, 24, 17, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    phases = torch.angle(torch.fft.rfft2(start(2)))
    images = synthesis.Phase(phases, magnitude, SIZE).images()
    values = torch.einsum("ij,bjhw->bihw", torch.linalg.inv(colour_root(images)), torch.logit(images))
    found = torch.fft.rfft2(values, norm="ortho").abs()
    # The columns that stand for themselves and their mirror images are real parts only.
    torch.testing.assert_close(found[..., 1:-1], magnitude[..., 1:-1].expand(2, -1, -1, -1), rtol=1e-7, atol=1e-7)


def test_a_code_is_optimised_through_its_decoder(subject):
    weight = torch.rand(5, 3 * SIZE[0] * SIZE[1], generator=torch.Generator().manual_seed(5), dtype=torch.float64)

    def decode(codes):
        return torch.sigmoid(codes @ weight - 1).view(-1, 3, *SIZE)

    codes = torch.zeros(2, 5, dtype=torch.float64)
    held = synthesis.Code(codes, decode)
    term = synthesis.LogProbability(classes=(1, 2))
    *_, last = steps_of(subject, held, [term], steps=20, learning_rate=0.05)
    torch.testing.assert_close(last.images, decode(held.parameter).detach())
    scores = subject.forward(subject.inputs_of(torch.cat([decode(codes), last.images]))).log_softmax(1)
    assert scores[2, 1] > scores[0, 1]
    assert scores[3, 2] > scores[1, 2]


def test_operators_on_a_code_are_refused(subject):
    held = synthesis.Code(torch.zeros(1, 3 * SIZE[0] * SIZE[1]).double(), lambda codes: codes.view(-1, 3, *SIZE))
    steps = steps_of(subject, held, [synthesis.L2()], steps=1, learning_rate=0.1, operators=[synthesis.GaussianBlur()])
    with pytest.raises(ValueError, match="cannot take images"):
        next(steps)


def test_a_pass_for_an_early_layer_ends_there(subject):
    inputs = subject.inputs_of(start(1))
    whole = subject.observe(inputs, ["features.0"])
    early = subject.observe(inputs, ["features.0"], output=False)
    assert early.output is None
    assert torch.equal(early.layers["features.0"], whole.layers["features.0"])
    ran = []
    handle = subject.model.module.classifier.register_forward_pre_hook(lambda *given: ran.append(given))
    subject.observe(inputs, ["features.0"], output=False)
    handle.remove()
    assert ran == []


def test_a_rank_has_no_value_without_an_input(subject):
    with pytest.raises(InvalidInput, match="name a class"):
        subject.aim(whylight.Rank(0))


def test_a_frame_is_grey_and_shows_the_whole_image():
    height, width = SIZE
    white = torch.ones(2, 3, *SIZE)
    framed = synthesis.Robustness(pad=8).view(white, generators(2))
    assert framed.shape == white.shape
    assert torch.equal(framed[:, :, :3], torch.full_like(framed[:, :, :3], 0.5))
    inner = framed[:, :, 8:-8, 8:-8]
    torch.testing.assert_close(inner, torch.ones_like(inner))
    shares = 1 - 2 * (framed[0, 0] - 1).mean().abs()
    assert shares == pytest.approx(height * width / ((height + 16) * (width + 16)), abs=0.03)


def test_a_crop_is_a_part_of_the_image_of_the_size_that_was_asked_for():
    ramp = torch.linspace(0, 1, SIZE[1]).expand(1, 3, *SIZE).contiguous()
    seen = [
        synthesis.Robustness(crop=0.5).view(ramp, [torch.Generator().manual_seed(seed)])[0, 0] for seed in range(60)
    ]
    low, high = torch.stack([one.amin() for one in seen]), torch.stack([one.amax() for one in seen])
    spans = high - low
    assert spans.min() > 0.44
    assert spans.min() < 0.6
    assert spans.max() > 0.9
    assert low.min() < 0.03
    assert high.max() > 0.97
    middles = (low + high) / 2
    assert middles.std() > 0.05, "it is a place at random"


def test_whole_shifts_roll_and_small_turns_stay_near():
    images = start(2)
    rolled = synthesis.Robustness(jitter=2).view(images, generators(2))
    assert torch.equal(rolled.flatten(1).sort().values, images.flatten(1).sort().values)
    smooth = F.interpolate(images[..., ::8, ::8], SIZE, mode="bicubic")
    turned = synthesis.Robustness(rotate=1.0, scale=0.01).view(smooth, generators(2))
    assert (turned - smooth).abs().mean() < 0.02
    assert torch.equal(synthesis.Robustness().view(images, ()), images)
