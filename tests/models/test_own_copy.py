"""A module of the caller's is served without being changed and without a second set of weights."""

from __future__ import annotations

import pytest
import torch
from models_factories import Tiny
from torch import nn

from whylight.errors import InvalidInput
from whylight.method import Batch
from whylight.models import own_copy, wrap_module
from whylight.models.weights import digest_of
from whylight.subject import CancelToken
from whylight.target import ClassIndex


def state_of(module):
    return {
        "digest": digest_of(module),
        "training": [layer.training for layer in module.modules()],
        "gradients": [parameter.requires_grad for parameter in module.parameters()],
        "grad": [None if parameter.grad is None else parameter.grad.clone() for parameter in module.parameters()],
        "hooks": [len(layer._forward_hooks) for layer in module.modules()],
        "keys": [sorted(layer.__dict__) for layer in module.modules()],
        "inplace": [getattr(layer, "inplace", None) for layer in module.modules()],
        "formats": [tuple(parameter.stride()) for parameter in module.parameters()],
        "types": [type(layer) for layer in module.modules()],
    }


@pytest.mark.parametrize("options", [{}, {"channels_last": True, "fold_batch_norm": True}, {"precision": "bfloat16"}])
def test_the_callers_module_stays_as_it_is(options):
    module = Tiny().train()
    module(torch.randn(4, 3, 16, 16)).sum().backward()
    before = state_of(module)
    model = wrap_module(module, input_size=(16, 16), **options)
    work = Batch(torch.randn(3, 3, 16, 16), (ClassIndex(1),) * 3, (0, 1, 2), CancelToken())
    model.subject().layer_gradients(work, "conv1")
    model.subject().input_gradients(work)
    after = state_of(module)
    for name, value in before.items():
        if name == "grad":
            assert all(torch.equal(one, other) for one, other in zip(value, after[name], strict=True))
        else:
            assert after[name] == value, name


def test_storage_is_shared_and_training_is_seen():
    module = Tiny()
    model = wrap_module(module, input_size=(16, 16))
    for mine, theirs in zip(model.module.parameters(), module.parameters(), strict=True):
        assert mine.data_ptr() == theirs.data_ptr()
        assert mine is not theirs
    with torch.no_grad():
        module.classifier.bias.add_(1)
    assert torch.equal(model.module.classifier.bias, module.classifier.bias)


def test_tied_weights_stay_tied():
    module = nn.ModuleDict({"one": nn.Linear(3, 3), "two": nn.Linear(3, 3)})
    module["two"].weight = module["one"].weight
    copied = own_copy(module)
    assert copied["two"].weight is copied["one"].weight
    assert not copied["one"].weight.requires_grad


def test_wrappers_for_several_devices_are_left_out():
    assert isinstance(own_copy(nn.DataParallel(Tiny())), Tiny)


def test_a_module_that_cannot_be_copied_is_explained():
    module = Tiny()
    module.kept = torch.ones(2, requires_grad=True) * 2
    with pytest.raises(InvalidInput, match="cannot be copied"):
        own_copy(module)


def test_a_module_on_other_inputs_is_explained():
    with pytest.raises(InvalidInput, match=r"does not run on an input of shape \[1, 3, 2, 2\]"):
        wrap_module(nn.Sequential(nn.Conv2d(3, 4, 7), nn.Flatten(), nn.Linear(4, 2)), input_size=(2, 2))


def test_grey_networks_are_recognised():
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    model = wrap_module(module, input_size=(28, 28))
    assert model.input_channels == 1
    assert model.transform.channels == 1
