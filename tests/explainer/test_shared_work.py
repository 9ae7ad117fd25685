"""Several methods in one call: the bits of single calls, what they have in common computed once, each for itself."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from torch import nn

import whylight
from whylight import BoxesOutput, ClassIndex, MapOutput, PictureOutput
from whylight.errors import InvalidInput, MethodFailed, Unsupported
from whylight.explainer import Explainer
from whylight.explanation import Explained
from whylight.models import Model, wrap_module
from whylight.plugins import OfferedMethod, Plugins
from whylight.testing import conv_gap_net, functional_relu_net, relu_net

CAMS = ["grad-cam", "grad-cam++", "xgrad-cam", "layer-cam", "hires-cam"]
INPUTS = [np.random.default_rng(seed).standard_normal((3, 32, 48), np.float32) for seed in range(3)]
TARGETS = [(ClassIndex(1), ClassIndex(4)), (), (ClassIndex(0),)]


@pytest.fixture(scope="module")
def methods() -> dict[str, OfferedMethod]:
    plugins = Plugins()
    plugins.load()
    return dict(plugins.methods)


@contextmanager
def passes(model: Model) -> Iterator[list[int]]:
    """Count the inputs of each pass through the model's module."""
    counted: list[int] = []
    handle = model.module.register_forward_pre_hook(lambda module, inputs: counted.append(len(inputs[0])))
    try:
        yield counted
    finally:
        handle.remove()


def served(network: nn.Module) -> Model:
    return wrap_module(network, name="net", input_size=(32, 48))


@pytest.fixture(params=[conv_gap_net, relu_net, functional_relu_net], ids=lambda make: make.__name__)
def net(request) -> Model:
    return served(request.param())


def answers(explained: Explained, method: int, count: int):
    """What one method gave, but for how the work was done."""
    size = len(explained.explanations) // count
    return [
        (why.method, why.target, why.target_score, why.map_min, why.map_max, why.map.tobytes(), *why.artifacts[1:])
        for why in explained.explanations[method * size : (method + 1) * size]
    ]


@pytest.mark.parametrize(
    "names",
    [
        ["grad-cam", "grad-cam++", "layer-cam", "saliency"],
        ["saliency", "input-x-gradient", "grad-cam", "saliency"],
        ["hires-cam", "grad-cam"],
    ],
    ids=" ".join,
)
def test_one_call_gives_the_bits_of_as_many_calls(net, methods, explain_all, names):
    explainer = Explainer({"net": net}, methods)
    outputs = (MapOutput(), PictureOutput(), BoxesOutput())
    together = explain_all(
        explainer, explainer.plan_methods("net", [(name, {}) for name in names], outputs), INPUTS, TARGETS
    )
    for index, name in enumerate(names):
        alone = explain_all(explainer, explainer.plan("net", name, {}, outputs), INPUTS, TARGETS)
        for one, other in zip(together, alone, strict=True):
            assert answers(one, index, len(names)) == answers(other, 0, 1)
            assert one.predictions == other.predictions


def test_methods_of_one_layer_run_the_network_once(methods, explain_all):
    model = served(relu_net())
    explainer = Explainer({"net": model}, methods)
    plan = explainer.plan_methods("net", [(name, {}) for name in CAMS])
    with passes(model) as counted:
        results = explain_all(explainer, plan, INPUTS, TARGETS)
    assert counted == [3]
    shared = [[why.execution.shared for why in result.explanations] for result in results]
    assert shared[1] == [(), *[(f"gradients at {model.last_spatial}",)] * 4]
    assert shared[0] == [one for one in shared[1] for _ in TARGETS[0]]


def test_what_cannot_be_shared_is_computed_and_not_said_to_be_shared(methods, explain_all):
    model = served(relu_net())
    explainer = Explainer({"net": model}, methods)
    plan = explainer.plan_methods("net", [("grad-cam", {}), ("grad-cam", {"layer": "features.0"}), ("saliency", {})])
    with passes(model) as counted:
        (result,) = explain_all(explainer, plan, INPUTS[:1])
    assert counted == [1, 1, 1]
    assert [set(why.execution.shared) - {"output"} for why in result.explanations] == [set()] * 3


class Given(whylight.Attribution):
    """Does what the test says, and otherwise the sum of the input's channels."""

    def __init__(self, name: str, trouble=lambda subject, batch: None, stochastic: bool = False) -> None:
        self.name = name  # type: ignore[misc]
        self.trouble = trouble
        self.stochastic = stochastic  # type: ignore[misc]
        self.sizes: list[tuple[int, int]] = []

    def attribute(self, subject, batch, options):
        self.sizes.append((len(batch.inputs), len(batch.targets)))
        given = self.trouble(subject, batch)
        return batch.inputs.sum(1)[list(batch.rows)] if given is None else given


def explainer_of(*given: Given) -> tuple[Explainer, whylight.explainer.ExplanationPlan]:
    offered = {method.name: OfferedMethod(method, "test", "test 1") for method in given}
    explainer = Explainer({"net": served(relu_net())}, offered)
    return explainer, explainer.plan_methods("net", [(method.name, {}) for method in given])


def test_a_method_that_fails_for_one_input_fails_that_input_and_no_other(explain_all, caplog):
    def fail(subject, batch):
        if any(not one.any() for one in batch.inputs):
            raise ZeroDivisionError("a secret")

    explainer, plan = explainer_of(Given("first"), Given("second", fail), Given("third"))
    zero = np.zeros_like(INPUTS[0])
    results = explain_all(explainer, plan, [INPUTS[0], zero, INPUTS[1]])
    assert [type(result) for result in results] == [Explained, MethodFailed, Explained]
    assert results[1].metadata["method"] == "second"
    assert [why.method for why in results[2].explanations] == ["first", "second", "third"]


def test_an_error_that_a_method_means_is_located_at_its_call(explain_all):
    def refuse(subject, batch):
        raise Unsupported("not this layer", field="options.layer")

    explainer, plan = explainer_of(Given("first"), Given("second", refuse))
    (result,) = explain_all(explainer, plan, INPUTS[:1])
    assert [violation.field for violation in result.violations] == ["methods[1].options.layer"]


def test_every_method_draws_from_a_seed_of_its_own(explain_all):
    def noise(subject, batch):
        return torch.stack([torch.rand(2, 2, generator=batch.generator(row)) for row in batch.rows])

    explainer, plan = explainer_of(Given("a", noise, True), Given("plain"), Given("b", noise, True))
    first, second = explain_all(explainer, plan, INPUTS[:2], seeds=[(7, 0, 8), (8, 0, 7)])
    assert [why.seed for why in first.explanations] == [7, None, 8]
    assert np.array_equal(first.explanations[0].map, second.explanations[2].map)
    assert np.array_equal(first.explanations[2].map, second.explanations[0].map)
    assert not np.array_equal(first.explanations[0].map, first.explanations[2].map)


def test_a_method_that_writes_into_the_inputs_is_at_fault(explain_all):
    explainer, plan = explainer_of(Given("rude", lambda subject, batch: batch.inputs.zero_().sum(1)), Given("next"))
    (result,) = explain_all(explainer, plan, INPUTS[:1])
    assert isinstance(result, MethodFailed)
    assert "in place" in result.message


def test_a_method_that_writes_into_what_it_was_given_harms_no_other(explain_all):
    def look(subject, batch):
        activations, gradients = subject.layer_gradients(batch, "features.3")
        maps = (activations[list(batch.rows)] * gradients).sum(1)
        output = subject.outputs(batch).sum()
        return maps + output

    def spoil(subject, batch):
        maps = look(subject, batch)
        for tensor in (*subject.layer_gradients(batch, "features.3"), subject.outputs(batch)):
            tensor.zero_()
        return maps

    explainer, plan = explainer_of(Given("rude", spoil), Given("next", look))
    (result,) = explain_all(explainer, plan, INPUTS[:1])
    rude, honest = result.explanations
    assert np.array_equal(rude.map, honest.map)
    assert "gradients at features.3" not in honest.execution.shared
    assert honest.map.any()


def test_where_memory_runs_out_for_one_input_its_methods_go_apart(explain_all):
    """Targets are halved first; explanations come in the order of the request all the same."""

    def poor(subject, batch):
        if len(batch.inputs) > 1 or len(batch.targets) > 1 or subject in seen:
            raise torch.OutOfMemoryError("CUDA out of memory")

    seen: list[object] = []
    first = Given("first", lambda subject, batch: seen.append(subject))
    explainer, plan = explainer_of(first, Given("second", poor))
    targets = [(ClassIndex(3), ClassIndex(1), ClassIndex(2)), ()]
    results = explain_all(explainer, plan, INPUTS[:2], targets)
    asked = [(why.method, why.target) for why in results[0].explanations]
    assert asked == [(method, target) for method in ("first", "second") for target in targets[0]]
    assert [why.method for why in results[1].explanations] == ["first", "second"]


def test_a_wrong_target_is_named_by_its_own_place_when_memory_has_parted_it_from_the_others(explain_all):
    def poor_and_picky(subject, batch):
        if len(batch.targets) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if batch.targets == (ClassIndex(2),):
            raise whylight.InvalidInput("not this one", field="target")

    explainer, plan = explainer_of(Given("picky", poor_and_picky))
    (error,) = explain_all(explainer, plan, INPUTS[:1], [(ClassIndex(3), ClassIndex(1), ClassIndex(2))])
    assert [violation.field for violation in error.violations] == ["input.targets[2]"]


def test_the_room_for_an_answer_counts_every_method(model, methods, explain_all):
    from whylight.limits import Limits

    explainer = Explainer({"looking": model}, methods, limits=Limits(message_bytes=32 * 32 * 4 * 2))
    pixels = [np.zeros((40, 40, 3), np.uint8)]
    fits = explainer.plan_methods("looking", [("grad-cam", {})] * 2)
    large = explainer.plan_methods("looking", [("grad-cam", {})] * 3)
    assert isinstance(explain_all(explainer, fits, pixels)[0], Explained)
    (refused,) = explain_all(explainer, large, pixels)
    assert (type(refused), refused.reason) == (InvalidInput, "OUTPUT_TOO_LARGE")


def test_in_process_a_list_of_methods_is_one_call():
    module = relu_net().eval()
    own = Given("own")
    explained = whylight.explain(module, INPUTS[0], ["grad-cam", own, "grad-cam++"], [3, 1], outputs=[MapOutput()])
    asked = [(why.method, why.target.index) for why in explained.explanations]
    assert asked == [(method, target) for method in ("grad-cam", "own", "grad-cam++") for target in (3, 1)]
    assert [bool(why.execution.shared) for why in explained.explanations] == [False] * 4 + [True] * 2
    alone = whylight.explain(module, INPUTS[0], "grad-cam++", 1, outputs=[MapOutput()])
    assert np.array_equal(explained.explanations[5].map, alone.explanation.map)
    with pytest.raises(InvalidInput) as caught:
        whylight.explain(module, INPUTS[0], ["saliency", "grad-cam"], options={"layer": "features.0"})
    assert caught.value.violations[0].field == "method[0].options.layer"
    with pytest.raises(InvalidInput) as caught:
        whylight.explain(module, INPUTS[0], "saliency", options={"layer": "features.0"})
    assert caught.value.violations[0].field == "method.options.layer"
