"""Signs of life: told once in an interval in which something went on, and not when nothing did."""

from __future__ import annotations

import threading

import pytest

from whylight.errors import Cancelled
from whylight.subject.cancel import CancelToken
from whylight.worker.pulse import BeatingToken, Pulse


def test_a_beat_is_fresh_once() -> None:
    pulse = Pulse()
    assert not pulse.fresh()
    pulse.beat()
    pulse.beat()
    assert pulse.fresh()
    assert not pulse.fresh()


def test_asking_a_token_beats_also_as_one_of_many() -> None:
    pulse = Pulse()
    tokens = [BeatingToken(pulse), BeatingToken(pulse)]
    tokens[0].cancel()
    pulse.fresh()
    CancelToken(tokens).check()
    assert pulse.fresh()
    tokens[1].cancel()
    with pytest.raises(Cancelled):
        CancelToken(tokens).check()


def test_it_is_told_for_each_interval_with_a_beat_until_it_is_stopped() -> None:
    pulse, told = Pulse(), threading.Semaphore(0)
    thread = threading.Thread(target=pulse.tell, args=(0.001, told.release))
    thread.start()
    for _ in range(3):
        pulse.beat()
        assert told.acquire(timeout=60)
    pulse.stop()
    thread.join()
    assert not told.acquire(blocking=False)
