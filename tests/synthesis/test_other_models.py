"""Methods that ask a second model: codes become pictures that others read too, and an expert's density rises."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import whylight
from whylight.errors import InvalidInput, NotFound, Unsupported
from whylight.explainer.long_plan import Wanted, plan_synthesis
from whylight.explainer.synthesising import Order, synthesise
from whylight.limits import Limits
from whylight.models import Transform, wrap_module
from whylight.outputs import MapOutput
from whylight.plugins import OfferedMethod
from whylight.subject import CancelToken
from whylight.target import ClassIndex
from whylight.testing import run_synthesis
from whylight_synthesis.activation_maximization import ActivationMaximization
from whylight_synthesis.activation_maximization_code import ActivationMaximizationCode
from whylight_synthesis.activation_maximization_expert import ActivationMaximizationExpert
from whylight_synthesis.other_models import decoder, fitted

DIGITS = tuple(range(10))
CODE = {"generator": "digit-generator", "steps": 60, "learning_rate": 0.1, "weight": 0.1}


def test_the_generator_and_the_density_know_digits(generator, expert, digits, reader):
    pictures, classes = digits
    assert (reader(pictures) == classes).float().mean() > 0.98
    noise = torch.rand(500, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    known, unknown = expert.subject().forward(pictures[:500]), expert.subject().forward(noise)
    assert known.mean() > unknown.mean() + 10


def test_codes_become_digits_that_an_independent_classifier_reads(classifier, generator, expert, reader):
    steps, made = run_synthesis(ActivationMaximizationCode, classifier, DIGITS, CODE, others=[generator])
    assert made.images.shape == (10, 1, 8, 8)
    assert made.checks["probability"].min() > 0.95
    assert reader(made.images).tolist() == list(DIGITS)
    assert set(steps[0].losses) == {"log_probability", "held"}
    free = {"parametrisation": "pixels", "objective": "log-probability", "steps": 60, "jitter": 0}
    _, unbound = run_synthesis(ActivationMaximization, classifier, DIGITS, free)
    assert unbound.checks["probability"].min() > 0.95
    density = expert.subject().forward
    assert bool((density(made.images) > density(unbound.images)).all()), "then no generator would be needed"


def test_a_greater_weight_keeps_the_code_shorter(classifier, generator):
    lengths = [
        run_synthesis(ActivationMaximizationCode, classifier, DIGITS, {**CODE, "weight": weight}, others=[generator])[
            1
        ].checks["code_length"]
        for weight in (0.0, 0.5)
    ]
    assert bool((lengths[1] < lengths[0]).all())


def test_the_loss_of_a_code_and_its_step_are_those_of_plain_autograd(classifier, generator):
    model, maker = (
        wrap_module(other.module.double(), name=other.name, transform=other.transform, input_size=other.input_size)
        for other in (classifier, generator)
    )
    options = {**CODE, "steps": 1, "optimiser": "sgd", "learning_rate": 0.5}
    try:
        (step,), made = run_synthesis(ActivationMaximizationCode, model, [3], options, others=[maker], seeds=[5])
        code = torch.randn(1, 8, 1, 1, generator=torch.Generator().manual_seed(5), dtype=torch.float64).requires_grad_()
        log_probability = model.module(maker.module(code)).log_softmax(1)[0, 3]
        torch.testing.assert_close(step.losses["log_probability"], -log_probability[None], rtol=1e-10, atol=0)
        torch.testing.assert_close(step.losses["held"], 0.1 * code.square().sum()[None], rtol=1e-10, atol=0)
        (gradient,) = torch.autograd.grad(-log_probability + 0.1 * code.square().sum(), code)
        with torch.no_grad():
            torch.testing.assert_close(made.images, maker.module(code - 0.5 * gradient), rtol=1e-10, atol=1e-12)
    finally:
        for other in (classifier, generator):
            other.module.float()


@pytest.mark.parametrize("threads", [1, 2])
def test_a_code_gets_the_bits_that_it_gets_alone(classifier, generator, expert, threads):
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    methods = {
        ActivationMaximizationCode: {**CODE, "steps": 4},
        ActivationMaximizationExpert: {"expert": "digit-density", "steps": 4, "jitter": 1},
    }
    try:
        for method, options in methods.items():
            others = [generator, expert]
            together = run_synthesis(method, classifier, range(8), options, others=others, seeds=range(8))[1]
            for row in (0, 5):
                alone = run_synthesis(method, classifier, [row], options, others=others, seeds=[row])[1]
                assert torch.equal(alone.images[0], together.images[row]), method.name
    finally:
        torch.set_num_threads(before)


def test_an_expert_makes_pictures_likelier(classifier, expert):
    options = {
        "expert": "digit-density",
        "steps": 80,
        "objective": "log-probability",
        "jitter": 1,
        "learning_rate": 0.1,
    }
    densities = {}
    for weight in (0.0, 0.03):
        steps, made = run_synthesis(
            ActivationMaximizationExpert, classifier, DIGITS, {**options, "weight": weight}, others=[expert]
        )
        densities[weight] = made.checks["log_density"]
        torch.testing.assert_close(densities[weight], expert.subject().forward(made.images).flatten())
    assert bool((densities[0.03] > made.checks["log_density_before"]).all())
    assert bool((densities[0.03] > densities[0.0] + 5).all())
    assert made.checks["probability"].min() > 0.9
    assert set(steps[0].losses) == {"log_probability", "log_density"}


def test_second_models_are_named_in_process_too(classifier, generator):
    options = {**CODE, "steps": 2}
    _, made = run_synthesis(ActivationMaximizationCode, classifier, [3], options, others=[generator], seeds=[5])
    asked = {"options": options, "seed": 5, "outputs": [whylight.MapOutput("raw")]}
    result = whylight.synthesise(
        classifier, "activation-maximization-code", 3, others={"digit-generator": generator}, **asked
    )
    assert np.array_equal(result.explanation.map, made.images[0].numpy())
    with pytest.raises(NotFound, match="digit-generator"):
        whylight.synthesise(classifier, "activation-maximization-code", 3, others={"another": generator}, **asked)
    with pytest.raises(InvalidInput) as told:
        whylight.synthesise(classifier, "activation-maximization-code", 3, others={classifier.name: generator}, **asked)
    assert told.value.violations[0].field == f"others[{classifier.name!r}]"


def test_models_that_do_not_fit_are_refused(classifier, generator, expert):
    def refused(method, options):
        run_synthesis(method, classifier, [0], {"steps": 1, **options}, others=[generator, expert])

    with pytest.raises(NotFound, match="close ones are 'digit-generator'") as told:
        refused(ActivationMaximizationCode, {"generator": "digit-generators"})
    assert told.value.reason == "MODEL_NOT_FOUND"
    assert told.value.violations[0].field == "options.generator"
    with pytest.raises(Unsupported, match="takes codes"):
        refused(ActivationMaximizationCode, {"generator": "digit-density"})
    with pytest.raises(Unsupported, match="gives one number"):
        refused(ActivationMaximizationExpert, {"expert": "digits"})


def test_a_generator_of_another_scale_is_told_apart(generator):
    class Signed(nn.Module):
        def forward(self, codes):
            return 2 * generator.module(codes) - 1

    signed = wrap_module(Signed(), name="signed", transform=Transform.plain((1, 1), 8), input_size=(1, 1))
    codes = torch.randn(2, 8, 1, 1, generator=torch.Generator().manual_seed(0))
    wanted = decoder(generator.subject(), "0..1", 3, (12, 10))(codes)
    assert wanted.shape == (2, 3, 12, 10)
    torch.testing.assert_close(decoder(signed.subject(), "-1..1", 3, (12, 10))(codes), wanted, rtol=0, atol=1e-6)
    with pytest.raises(InvalidInput, match=r"which are not 0\.\.1"):
        decoder(signed.subject(), "0..1", 1, (8, 8))(codes)


def test_pictures_are_fitted_to_who_looks_at_them():
    colours = torch.rand(2, 3, 6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grey = fitted(colours, 1, (6, 8))
    torch.testing.assert_close(grey[:, 0], 0.299 * colours[:, 0] + 0.587 * colours[:, 1] + 0.114 * colours[:, 2])
    smaller = F.interpolate(grey.expand(-1, 3, -1, -1), (3, 4), mode="bilinear", antialias=True)
    torch.testing.assert_close(fitted(grey, 3, (3, 4)), smaller)
    with pytest.raises(Unsupported, match="2 channels"):
        fitted(colours[:, :2], 3, (6, 8))


def test_a_served_call_reaches_the_other_models_of_its_worker(classifier, generator, reader):
    models = {model.name: model for model in (classifier, generator)}
    offered = OfferedMethod(ActivationMaximizationCode(), "synthesis", "whylight")
    options = {**CODE, "steps": 30}
    plan = plan_synthesis(
        models,
        {offered.method.name: offered},
        classifier.name,
        offered.method.name,
        options,
        Wanted(outputs=(MapOutput(),), targeted=True),
        Limits(),
    )
    orders = [Order(ClassIndex(digit), np.zeros((0, 1, 8, 8), np.float32), digit, CancelToken()) for digit in (2, 7)]
    outcomes = {}
    slices = synthesise(plan, orders)
    while len(outcomes) < 2:
        outcomes.update(next(slices))
    slices.close()
    explained = [outcomes[place] for place in (0, 1)]
    assert [one.predictions[0].class_index for one in explained] == [2, 7]
    made = np.stack([one.explanation.artifacts[0].array for one in explained])
    assert reader(torch.from_numpy(made)).tolist() == [2, 7]
