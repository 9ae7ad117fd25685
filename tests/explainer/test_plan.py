"""What a plan refuses before there is an input, and with which field path of the request."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import whylight
from whylight import Canvas, MapOutput, Need, Options, PictureOutput, PictureStyle
from whylight.errors import InvalidInput, MethodFailed, NotFound, Unsupported, WhylightError
from whylight.explainer import Explainer
from whylight.models import wrap_module


class Costly(whylight.Attribution):
    """Costly."""

    name = "costly"
    stochastic = True

    class Options(Options):
        steps: int = 50

    def attribute(self, subject, batch, options):
        raise AssertionError("not run")

    def cost(self, options):
        return options.steps

    def cost_per_target(self, options):
        return options.steps / 2

    def presentation(self, options):
        return whylight.Presentation(signed=True)


@pytest.fixture
def explainer(model, cam):
    return Explainer({"looking": model}, cam)


def refused(explainer, kind: type[WhylightError], *args, **keywords) -> tuple[str, str]:
    with pytest.raises(kind) as caught:
        explainer.plan(*args, **keywords)
    return caught.value.reason, caught.value.violations[0].field


def test_a_plan_knows_its_cost_and_whether_it_needs_seeds(explainer_of, explainer):
    plan = explainer_of(Costly()).plan("looking", "costly", {"steps": 20})
    assert (plan.cost, plan.cost_per_target, plan.methods[0].stochastic) == (20, 10, True)
    assert not explainer.plan("looking", "grad-cam", {}).methods[0].stochastic


def test_a_plan_names_the_layer_that_is_meant(explainer, model):
    plan = explainer.plan("looking", "grad-cam", {})
    assert plan.methods[0].options.layer == model.last_spatial
    assert plan.methods[0].options.profile == "paper"


def test_no_outputs_mean_one_native_map(explainer):
    assert explainer.plan("looking", "grad-cam", {}).outputs == (MapOutput(),)


def test_scale_and_colours_follow_profile_and_presentation(explainer, explainer_of):
    paper = explainer.plan("looking", "grad-cam", {}).methods[0].scale
    captum = explainer.plan("looking", "grad-cam", {"profile": "captum"}).methods[0].scale
    peer = explainer.plan("looking", "grad-cam", {"profile": "pytorch-grad-cam"}).methods[0].scale
    assert (paper.rectify, paper.normalise, paper.interpolation) == (True, "after", "bilinear")
    assert (captum.rectify, captum.interpolation) == (False, "nearest")
    assert (peer.rectify, peer.normalise, peer.eps) == (True, "both", 1e-7)
    signed = explainer_of(Costly()).plan("looking", "costly", {}, (PictureOutput(), MapOutput())).methods[0]
    assert signed.scale.signed
    assert not signed.scale.rectify
    assert torch.equal(signed.colours[0], whylight.ops.colour_table("bwr"))
    assert signed.colours[1] is None
    unsigned = explainer.plan("looking", "grad-cam", {}, (PictureOutput(),)).methods[0]
    assert torch.equal(unsigned.colours[0], whylight.ops.colour_table("turbo"))


def test_a_plan_knows_which_pictures_are_drawn_on(explainer):
    def drawn_on(*outputs):
        plan = explainer.plan("looking", "grad-cam", {}, outputs)
        return plan.draws_on_seen, plan.draws_on_original

    assert drawn_on(MapOutput(canvas=Canvas.ORIGINAL), whylight.BoxesOutput()) == (False, False)
    assert drawn_on(PictureOutput(style=PictureStyle.MAP)) == (False, False)
    assert drawn_on(PictureOutput()) == (True, False)
    assert drawn_on(PictureOutput(canvas=Canvas.ORIGINAL)) == (False, True)


def test_what_is_not_there_is_named_with_what_is_close(explainer):
    with pytest.raises(NotFound, match="looking"):
        explainer.plan("loking", "grad-cam", {})
    with pytest.raises(NotFound, match="grad-cam"):
        explainer.plan("looking", "gradcam", {})
    with pytest.raises(NotFound, match="there are grad-cam"):
        explainer.plan("looking", "x" * 10_000, {})
    assert refused(explainer, NotFound, "none", "grad-cam", {}) == ("MODEL_NOT_FOUND", "model")
    assert refused(explainer, NotFound, "looking", "none", {}) == ("METHOD_NOT_FOUND", "methods[0].name")
    layer = refused(explainer, NotFound, "looking", "grad-cam", {"layer": "poool"})
    assert layer == ("LAYER_NOT_FOUND", "methods[0].options.layer")


def test_bad_options_are_named_all_at_once(explainer):
    with pytest.raises(InvalidInput) as caught:
        explainer.plan("looking", "grad-cam", {"lair": 1, "profile": "mine"})
    assert caught.value.reason == "OPTION_INVALID"
    assert {violation.field for violation in caught.value.violations} == {
        "methods[0].options.lair",
        "methods[0].options.profile",
    }


def test_a_layer_without_maps_is_refused(explainer):
    refusal = refused(explainer, Unsupported, "looking", "grad-cam", {"layer": "head"})
    assert refusal == ("METHOD_UNSUPPORTED", "methods[0].options.layer")


def test_what_a_model_lacks_is_named(cam):
    flat = wrap_module(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 2)), name="flat", input_size=(8, 8))
    with pytest.raises(Unsupported, match=r"spatial-layer.*'flat'") as caught:
        Explainer({"flat": flat}, cam).plan("flat", "grad-cam", {})
    assert caught.value.metadata == {"method": "grad-cam", "missing": Need.SPATIAL_LAYER.value}


def test_outputs_are_named_by_their_place(explainer):
    outputs = (MapOutput(), PictureOutput(colour_map="turbi"))
    refusal = refused(explainer, InvalidInput, "looking", "grad-cam", {}, outputs)
    assert refusal == ("OUTPUT_INVALID", "outputs[1].picture.colour_map")
    refusal = refused(explainer, InvalidInput, "looking", "grad-cam", {}, (MapOutput(), MapOutput()))
    assert refusal == ("OUTPUT_INVALID", "outputs[1].name")
    refusal = refused(explainer, InvalidInput, "looking", "grad-cam", {}, (), -1)
    assert refusal == ("REQUEST_INVALID", "top_predictions")


@pytest.mark.parametrize("cost", [0.0, -1.0, float("nan"), float("inf"), "much"])
def test_a_method_that_gives_no_sensible_cost_is_at_fault(explainer_of, cost):
    class Odd(Costly):
        def cost(self, options):
            return cost

    with pytest.raises(MethodFailed) as caught:
        explainer_of(Odd()).plan("looking", "costly", {})
    assert caught.value.metadata == {"method": "costly", "plugin": "test"}


def test_a_plan_of_several_methods_costs_what_they_cost_together(explainer_of, cam, model):
    explainer = Explainer({"looking": model}, {**cam, **explainer_of(Costly()).methods})
    calls = [("costly", {"steps": 20}), ("grad-cam", {}), ("costly", {"steps": 3})]
    plan = explainer.plan_methods("looking", calls)
    alone = [explainer.plan("looking", *call) for call in calls]
    assert plan.cost == sum(one.cost for one in alone)
    assert plan.cost_per_target == sum(one.cost_per_target for one in alone)
    assert [planned.stochastic for planned in plan.methods] == [True, False, True]
    assert [planned.options for planned in plan.methods] == [one.methods[0].options for one in alone]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        (("none", {}), "methods[1].name"),
        (("grad-cam", {"lair": 1}), "methods[1].options.lair"),
        (("grad-cam", {"layer": "nowhere"}), "methods[1].options.layer"),
    ],
)
def test_what_is_wrong_with_one_of_several_methods_names_it(explainer, call, field):
    with pytest.raises(WhylightError) as caught:
        explainer.plan_methods("looking", [("grad-cam", {}), call])
    assert caught.value.violations[0].field == field


def test_no_method_at_all_is_refused(explainer):
    with pytest.raises(InvalidInput) as caught:
        explainer.plan_methods("looking", [])
    assert caught.value.violations[0].field == "methods"
