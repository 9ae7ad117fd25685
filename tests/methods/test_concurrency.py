"""Many threads, mixed methods, one model: every answer is the sequential one to the bit, and the model stays the same.

This is the test that every hook-based library fails (research/methods.md, 2.7: 4 threads, 6 calls each, repeated).
"""

from __future__ import annotations

import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from every_method import CHEAP, SIZE, attentive_net, every_method

import whylight
from whylight.models import wrap_module
from whylight.testing import conv_gap_net, fingerprint, functional_relu_net, relu_net, run_method
from whylight_cam import CAM, GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from whylight_gradients import InputXGradient, Saliency

THREADS = 4
CALLS = 6
REPEATS = 5


def jobs(early, methods):
    """24 calls: every method, two layers, batches of one to three, several targets, a neuron, different inputs."""
    source = torch.Generator().manual_seed(11)
    neuron = whylight.Neuron("last" if early == "stem" else "features.3", 1)
    targets = [[0], [1, (2, 3)], [None, 4, (1, None)], [3, 3]]
    calls = []
    for number in range(THREADS * CALLS):
        method = methods[number % len(methods)]
        wanted = list(targets[number % len(targets)])
        options = {"layer": early} if number % 2 and "layer" in method.Options.model_fields else {}
        if method is Saliency or options:  # the last layer lies behind the neuron
            wanted[0] = neuron
        calls.append((method, torch.randn(len(wanted), 3, 32, 48, generator=source), wanted, options))
    return calls


@pytest.mark.parametrize("network", [conv_gap_net, relu_net, functional_relu_net])
def test_threads_that_share_a_model(network):
    model = wrap_module(network())
    methods = [GradCAM, Saliency, LayerCAM, GradCAMPlusPlus, InputXGradient, XGradCAM, HiResCAM]
    methods = [CAM, *methods] if network is conv_gap_net else methods
    calls = jobs("stem" if network is functional_relu_net else "features.0", methods)
    expected = [run_method(method, model, *call).maps for method, *call in calls]
    before = fingerprint(model.module)
    barrier = threading.Barrier(THREADS)

    def work(thread):
        barrier.wait()  # so that the threads do run at once
        mine = range(thread * CALLS, (thread + 1) * CALLS)
        return [(number, run_method(calls[number][0], model, *calls[number][1:]).maps) for number in mine]

    wrong = []
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in range(REPEATS):
            for answers in pool.map(work, range(THREADS)):
                wrong += [number for number, maps in answers if not torch.equal(maps, expected[number])]
    assert wrong == []
    assert fingerprint(model.module) == before


def test_threads_that_share_a_resnet(resnet18, images):
    """The same with a network that is large enough for passes to overlap."""
    model = resnet18.model
    methods = [GradCAM, Saliency, LayerCAM, GradCAMPlusPlus, InputXGradient, XGradCAM]
    layers = ["last-spatial", "layer3", "layer2.0.conv1"]
    calls = []
    for number in range(THREADS * CALLS):
        method = methods[number % len(methods)]
        options = {"layer": layers[number % 3]} if "layer" in method.Options.model_fields else {}
        calls.append((method, images[number % 3 : number % 3 + 1, :, :64, :64], [number], options))
    expected = [run_method(method, model, *call).maps for method, *call in calls]
    before = fingerprint(model.module)
    barrier = threading.Barrier(THREADS)

    def work(thread):
        barrier.wait()
        mine = range(thread, THREADS * CALLS, THREADS)
        return [(number, run_method(calls[number][0], model, *calls[number][1:]).maps) for number in mine]

    with ThreadPoolExecutor(THREADS) as pool:
        answers = [answer for part in pool.map(work, range(THREADS)) for answer in part]
    assert [number for number, maps in answers if not torch.equal(maps, expected[number])] == []
    assert fingerprint(model.module) == before


def test_all_methods_at_once_on_one_model():
    """Two calls of every method that is installed, at two layers where it has one, in an order that mixes them."""
    model = wrap_module(attentive_net(), input_size=SIZE)
    source = torch.Generator().manual_seed(13)
    calls = []
    for turn in range(2):
        for number, (name, method) in enumerate(sorted(every_method().items())):
            options = dict(CHEAP.get(name, {}))
            if turn and "layer" in method.Options.model_fields and name != "cam":
                options["layer"] = "stem"
            count = 1 + (number + turn) % 3
            targets = [[3, None, (1, 2)][(row + turn) % 3] for row in range(count)]
            calls.append((method, torch.randn(count, 3, *SIZE, generator=source), targets, options))
    shuffled = torch.randperm(len(calls), generator=source).tolist()
    expected = [run_method(method, model, *call) for method, *call in calls]
    before = fingerprint(model.module)
    barrier = threading.Barrier(THREADS)

    def work(thread):
        barrier.wait()
        mine = shuffled if thread % 2 else shuffled[::-1]
        mine = mine[5 * thread :] + mine[: 5 * thread]
        return [(number, run_method(calls[number][0], model, *calls[number][1:])) for number in mine]

    wrong = []
    with ThreadPoolExecutor(THREADS) as pool:
        for answers in pool.map(work, range(THREADS)):
            for number, given in answers:
                same = torch.equal(given.maps, expected[number].maps) and all(
                    torch.equal(check, expected[number].checks[name]) for name, check in given.checks.items()
                )
                wrong += [] if same else [calls[number][0].name]
    assert wrong == []
    assert fingerprint(model.module) == before
