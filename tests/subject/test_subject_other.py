"""A subject gives the other models that are served, by name, under the same cancellation, and says what is missing."""

from __future__ import annotations

import pytest
import torch

from whylight.errors import Cancelled, NotFound
from whylight.models import wrap_module
from whylight.subject import CancelToken
from whylight.testing import conv_gap_net, relu_net


@pytest.fixture
def models():
    made = (
        wrap_module(relu_net(), name="first", input_size=(16, 16)),
        wrap_module(conv_gap_net(), name="second", input_size=(16, 16)),
    )
    return {model.name: model for model in made}


def test_another_model_answers_as_it_does_alone(models):
    other = models["first"].subject(others=models).other("second")
    inputs = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert other.model is models["second"]
    assert torch.equal(other.forward(inputs), models["second"].subject().forward(inputs))
    assert other.other("first").model is models["first"]


def test_it_is_cancelled_with_the_one_that_asked(models):
    cancel = CancelToken()
    other = models["first"].subject(cancel, models).other("second")
    cancel.cancel()
    with pytest.raises(Cancelled):
        other.forward(torch.rand(1, 3, 16, 16))


def test_a_model_that_is_not_served_is_named(models):
    with pytest.raises(NotFound, match="close ones are 'second'") as told:
        models["first"].subject(others=models).other("secnd", field="options.expert")
    assert told.value.reason == "MODEL_NOT_FOUND"
    assert told.value.violations[0].field == "options.expert"
    with pytest.raises(NotFound):
        models["first"].subject().other("second")
