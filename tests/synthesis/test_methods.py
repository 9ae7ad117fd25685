"""Every method of synthesis on tiny networks: its pictures, its bits, its ends; what each shows is tested elsewhere."""

from __future__ import annotations

import pytest
import torch

from whylight.errors import Cancelled, InvalidInput
from whylight.models import Transform, wrap_module
from whylight.subject import CancelToken
from whylight.testing import conv_gap_net, relu_net, run_synthesis
from whylight_synthesis import whylight_methods
from whylight_synthesis.texture_synthesis import TextureSynthesis, spread_layers

SIZE = (24, 32)
METHODS = {method.name: method for method in whylight_methods()}
OPTIONS = {
    "activation-maximization": {"regularisers": [{"kind": "total-variation", "weight": 10, "schedule": "rising"}]},
    "caricature": {},
    "deepdream": {"octaves": 2},
    "feature-inversion": {},
    "fooling-image": {},
    "maco": {},
    "style-transfer": {},
    "texture-synthesis": {},
}
OF_TWO_MODELS = {"activation-maximization-code", "activation-maximization-expert"}


@pytest.fixture(scope="module")
def model():
    return wrap_module(relu_net(), transform=Transform.plain(SIZE))


def made(name, model, rows, **more):
    """Return what a method makes for rows of one batch, each with a class, pictures and a seed of its own."""
    method = METHODS[name]
    wanted = sum(not taken.endswith("?") for taken in method.takes)
    source = torch.Generator().manual_seed(3)
    pictures = torch.rand(8, wanted, 3, *SIZE, generator=source)[list(rows)]
    targets = [row % 5 if method.wants_target else None for row in rows]
    return run_synthesis(
        method, model, targets, {"steps": 3, **OPTIONS[name]}, pictures=pictures, seeds=list(rows), **more
    )


def test_all_methods_are_here():
    assert set(OPTIONS) | OF_TWO_MODELS == set(METHODS)
    for method in METHODS.values():
        assert method.reference
        assert method().cost(method.Options(**_required(method))) > 0


def _required(method):
    return {name: "a-model" for name, field in method.Options.model_fields.items() if field.is_required()}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_makes_pictures_and_tells_of_every_step(name, model):
    steps, result = made(name, model, [0, 1])
    assert result.images.shape == (2, 3, *SIZE)
    assert result.images.min() >= 0
    assert result.images.max() <= 1
    assert not result.images.requires_grad
    assert not torch.equal(result.images[0], result.images[1])
    assert [step.step for step in steps] == list(range(1, len(steps) + 1))
    assert {step.total for step in steps} == {len(steps)}
    for step in steps:
        assert step.losses
        assert all(values.shape == (2,) and torch.isfinite(values).all() for values in step.losses.values())
        assert step.images.shape == (2, 3, *SIZE)
    assert not torch.equal(steps[0].images, result.images)
    assert all(values.shape == (2,) and torch.isfinite(values).all() for values in result.checks.values())


@pytest.mark.parametrize(
    ("name", "threads"), [*((name, 1) for name in OPTIONS), ("texture-synthesis", 2), ("activation-maximization", 2)]
)
def test_a_picture_has_the_bits_that_it_has_alone(name, threads, model):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        _, together = made(name, model, range(8))
        for row in (0, 7):
            _, alone = made(name, model, [row])
            assert torch.equal(alone.images[0], together.images[row])
            for check, values in alone.checks.items():
                assert torch.equal(values[0], together.checks[check][row]), check
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("name", OPTIONS)
def test_it_follows_its_seed_if_it_draws(name, model):
    method = METHODS[name]
    targets = [1 if method.wants_target else None]
    wanted = sum(not taken.endswith("?") for taken in method.takes)
    pictures = torch.rand(1, wanted, 3, *SIZE, generator=torch.Generator().manual_seed(3))
    once, again, other = (
        run_synthesis(method, model, targets, {"steps": 2, **OPTIONS[name]}, pictures=pictures, seeds=[seed])[1].images
        for seed in (4, 4, 5)
    )
    assert torch.equal(once, again)
    assert torch.equal(once, other) is not method.stochastic


@pytest.mark.parametrize("name", OPTIONS)
def test_it_stops_when_it_is_cancelled(name, model):
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        made(name, model, [0], cancel=cancel)


@pytest.mark.parametrize("name", [name for name in OPTIONS if METHODS[name].takes])
def test_a_picture_that_is_missing_is_named(name, model):
    method = METHODS[name]
    optional = all(taken.endswith("?") for taken in method.takes)
    options = {"start": "picture"} if "start" in method.Options.model_fields else {}
    if optional and not options:
        pytest.skip("it does without")
    with pytest.raises(InvalidInput, match="needs") as told:
        run_synthesis(method, model, [0 if method.wants_target else None], {"steps": 1, **options})
    assert told.value.violations[0].field == "inputs"


@pytest.mark.parametrize("name", [name for name in OPTIONS if METHODS[name].wants_target])
def test_a_target_that_is_missing_is_named(name, model):
    with pytest.raises(InvalidInput, match="needs a target"):
        run_synthesis(METHODS[name], model, [None], {"steps": 1})


def test_weights_go_with_layers(model):
    pictures = torch.rand(1, 1, 3, *SIZE)
    with pytest.raises(InvalidInput, match="2 weights for 1 layers"):
        run_synthesis(TextureSynthesis, model, options={"layers": ["features.0"], "weights": [1, 2]}, pictures=pictures)


def test_texture_takes_a_layer_of_each_resolution():
    assert spread_layers(wrap_module(conv_gap_net(), transform=Transform.plain((64, 64))).subject()) == (
        "features.1",
        "features",
    )
