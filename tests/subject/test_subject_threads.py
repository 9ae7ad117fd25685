"""Mixed work of many threads on one model gives the sequential answer bit for bit, and leaves the model as it was."""

from __future__ import annotations

import threading

import torch
import torchvision

from whylight.models import wrap_module
from whylight.models.weights import digest_of, random_weights
from whylight.target import ClassIndex, Rank

THREADS, CALLS, REPEATS = 4, 6, 5


def _work(model, number, batch, noise):
    inputs = noise(1 + number % 3, 64, 64, torch.float32, seed=number)
    targets = [ClassIndex((37 * number + row) % 1000) if row else Rank(number % 4) for row in range(len(inputs))]
    work = batch(inputs, targets)
    layers = ("last-spatial", "layer1", "layer2.1.bn2", "layer3.0.conv1", "conv1")
    subject = model.subject()
    if number % 6 == 5:
        return (subject.input_gradients(work), subject.outputs(work))
    return (*subject.layer_gradients(work, layers[number % 5]), subject.outputs(work))


def test_four_threads_get_the_sequential_answers(batch, noise):
    module = torchvision.models.resnet18()
    random_weights(module, 0)
    model = wrap_module(module, input_size=(64, 64))
    before = digest_of(model.module)
    calls = [(thread, call) for thread in range(THREADS) for call in range(CALLS)]
    expected = {key: _work(model, key[0] * CALLS + key[1], batch, noise) for key in calls}
    for _ in range(REPEATS):
        found, failures = {}, []
        start = threading.Barrier(THREADS)

        def one_thread(thread, found=found, failures=failures, start=start):
            try:
                start.wait()
                for call in range(CALLS):
                    found[thread, call] = _work(model, thread * CALLS + call, batch, noise)
            except BaseException as error:
                failures.append(error)

        threads = [threading.Thread(target=one_thread, args=(number,)) for number in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        for key in calls:
            for one, other in zip(found[key], expected[key], strict=True):
                assert torch.equal(one, other), key
    assert digest_of(model.module) == before == model.digest
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in model.module.parameters())
