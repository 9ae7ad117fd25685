"""The suite for plugin authors finds what it is for: each method here breaks one rule, and one test of it says so."""

from __future__ import annotations

import pytest
import torch
from pydantic import Field

import whylight
from whylight.errors import MethodFailed
from whylight.models import wrap_module
from whylight.testing import MethodTests, conv_gap_net


class Good(whylight.Attribution):
    """Breaks no rule."""

    name = "good"

    def attribute(self, subject, batch, options):
        return subject.input_gradients(batch).abs().amax(1)


class Noisy(Good):
    """Draws random numbers as it should."""

    stochastic = True

    def attribute(self, subject, batch, options):
        maps = super().attribute(subject, batch, options)
        return torch.stack(
            [
                one + torch.rand(one.shape, generator=batch.generator(row))
                for one, row in zip(maps, batch.rows, strict=True)
            ]
        )


class OneForEachInput(Good):
    """Forgets that an input may have several targets."""

    def attribute(self, subject, batch, options):
        return batch.inputs.mean(1)


class KeepsTheGraph(Good):
    """Gives maps that still hold on to a graph."""

    def attribute(self, subject, batch, options):
        return super().attribute(subject, batch, options).requires_grad_()


class NotFinite(Good):
    """Divides by what may be zero."""

    def attribute(self, subject, batch, options):
        return super().attribute(subject, batch, options) / 0


class RandomBehindTheBack(Good):
    """Draws from the global source of random numbers."""

    def attribute(self, subject, batch, options):
        maps = super().attribute(subject, batch, options)
        return maps + torch.rand_like(maps)


class StochasticInNameOnly(Good):
    """Says that it is stochastic, and is not."""

    stochastic = True


class LooksAtItsNeighbours(Good):
    """Normalises over the whole batch, as expVAE does."""

    def attribute(self, subject, batch, options):
        maps = super().attribute(subject, batch, options)
        return maps / maps.square().mean().sqrt()


class MixesUpTargets(Good):
    """Takes target `m` to be of input `m`."""

    def attribute(self, subject, batch, options):
        rows = torch.arange(len(batch.targets)) % len(batch.inputs)
        return batch.inputs[rows].mean(1)


class Transposed(Good):
    """Takes heights for widths."""

    def attribute(self, subject, batch, options):
        return super().attribute(subject, batch, options).transpose(1, 2)


class LeavesAHook(Good):
    """Hooks the model, as most libraries do."""

    def attribute(self, subject, batch, options):
        subject.model.module.register_forward_hook(lambda *_: None)
        return super().attribute(subject, batch, options)


class EditsWeights(Good):
    """Writes into the weights and puts them back, one rounding off."""

    def attribute(self, subject, batch, options):
        weight = next(subject.model.module.parameters())
        weight.data.mul_(3).div_(3)
        return super().attribute(subject, batch, options)


class WantsGradients(Good):
    """Asks the caller's inputs for gradients, as captum does."""

    def attribute(self, subject, batch, options):
        batch.inputs.requires_grad_()
        return super().attribute(subject, batch, options).detach()


class DeafToCancel(Good):
    """Never asks whether the work is still wanted."""

    def attribute(self, subject, batch, options):
        return batch.inputs[list(batch.rows)].mean(1)


class Undescribed(Good):
    """Has an option that no form can explain."""

    class Options(whylight.Options):
        steps: int = 3


class Strict(Good):
    """Refuses 30.0 for 30, which is how numbers travel."""

    class Options(whylight.Options, strict=True):
        steps: int = Field(3, description="Steps.")


class Loose(Good):
    """Swallows misspelt options."""

    class Options(whylight.Options, extra="ignore"):
        pass


class Free(Good):
    """Costs nothing, it says."""

    def cost(self, options):
        return 0.0


def suite(broken):
    class Suite(MethodTests):
        method = broken

    return Suite()


def run(tests, name):
    test = getattr(tests, name)
    test(wrap_module(conv_gap_net())) if "model" in test.__code__.co_varnames[:2] else test()


NAMES = [name for name in vars(MethodTests) if name.startswith("test_") and "cuda" not in name]
CAUGHT = [
    (OneForEachInput, "test_there_is_one_map_for_each_target"),
    (KeepsTheGraph, "test_there_is_one_map_for_each_target"),
    (NotFinite, "test_the_numbers_are_finite"),
    (RandomBehindTheBack, "test_the_same_seed_gives_the_same_bits"),
    (StochasticInNameOnly, "test_a_stochastic_method_follows_its_seed"),
    (LooksAtItsNeighbours, "test_an_input_gets_the_same_map_alone_and_in_a_batch"),
    (MixesUpTargets, "test_a_target_gets_the_same_map_alone_and_beside_others"),
    (Transposed, "test_inputs_need_not_be_square"),
    (LeavesAHook, "test_the_model_and_the_inputs_are_left_as_they_were"),
    (EditsWeights, "test_the_model_and_the_inputs_are_left_as_they_were"),
    (WantsGradients, "test_the_model_and_the_inputs_are_left_as_they_were"),
    (DeafToCancel, "test_cancelled_work_stops"),
    (Undescribed, "test_every_option_is_described"),
    (Strict, "test_the_options_travel"),
    (Loose, "test_an_unknown_option_is_refused"),
    (Free, "test_it_says_how_much_it_costs_and_how_to_show_it"),
]


@pytest.mark.parametrize(("method", "name"), CAUGHT)
def test_a_broken_rule_is_found(method, name):
    with pytest.raises((AssertionError, MethodFailed, pytest.fail.Exception, whylight.InvalidInput)):
        run(suite(method), name)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("method", [Good, Noisy])
def test_a_method_that_keeps_the_rules_passes(method, name):
    run(suite(method), name)
