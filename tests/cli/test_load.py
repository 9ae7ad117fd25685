"""The parts of a load: when calls are due, that latency counts from then, and how the figures come about."""

from __future__ import annotations

import asyncio
import io
import itertools
import random
import statistics

import pytest
from PIL import Image
from virtual_loop import VirtualLoop

from whylight.cli.load import arrivals
from whylight.cli.load import drive as driving
from whylight.cli.load.drive import Driver, MonotonicClock
from whylight.cli.load.pictures import synthetic
from whylight.cli.load.report import Report, percentile, summary
from whylight.cli.load.spec import Kind, Load, processes_for, read_mix
from whylight.cli.load.tally import Execution, Outcome, Tally, together

KINDS = (Kind("a", 1.0, (b"a",)),)


def drive(load, send_on, *, begin=0.0):
    """Run a load in virtual time, with the sender that `send_on` makes of the loop; return what was counted."""
    loop = VirtualLoop()
    try:
        driver = Driver(load, send_on(loop), loop)
        loop.run_until_complete(driver.run(begin))
    finally:
        loop.close()
    return driver.tally


def one_at_a_time(seconds):
    """A server that needs so long for each call and works off one after the other."""

    def on(loop):
        lock = asyncio.Lock()

        async def send(kind):
            async with lock:
                await asyncio.sleep(seconds)
            return Outcome(executions=[Execution(1, 0.0, seconds)])

        return send

    return on


def test_arrivals_are_a_poisson_process_and_the_same_from_the_same_seed():
    times = list(arrivals.poisson(50.0, 200.0, random.Random(1)))
    gaps = [after - before for before, after in itertools.pairwise(times)]
    assert times == sorted(times)
    assert 0 < times[0] < times[-1] < 200
    # 10,000 expected; a Poisson count strays by its root, 100, and an exponential gap has its mean for a deviation.
    assert len(times) == pytest.approx(10_000, abs=400)
    assert statistics.stdev(gaps) == pytest.approx(0.02, rel=0.05)
    assert times == list(arrivals.poisson(50.0, 200.0, random.Random(1)))
    assert times != list(arrivals.poisson(50.0, 200.0, random.Random(2)))


def test_kinds_come_as_often_as_their_weights_say():
    drawn = list(itertools.islice(arrivals.kinds((3.0, 1.0), random.Random(0)), 8000))
    assert drawn.count(0) == pytest.approx(6000, abs=160)


def test_an_open_loop_counts_latency_from_when_a_call_was_due():
    """Twice as many calls as are served: each waits for all before it, as Lindley's recursion says."""
    load = Load({"server": "s"}, KINDS, rate=2.0, duration=20.0, seed=3)
    tally = drive(load, one_at_a_time(1.0), begin=5.0)
    free = 0.0
    expected = []
    for due in tally.due:
        free = max(free, due) + 1.0
        expected.append(free - due)
    assert len(tally.due) > 25
    assert min(tally.due) >= 5.0
    assert tally.latency == pytest.approx(expected)
    assert max(tally.latency) > 10
    assert tally.sent == tally.ended == len(tally.due)


def test_a_closed_loop_waits_for_answers_and_so_sees_none_of_that_wait():
    load = Load({"server": "s"}, KINDS, concurrency=2, calls=20)
    tally = drive(load, one_at_a_time(1.0))
    assert len(tally.due) == 20
    assert max(tally.latency) == pytest.approx(2.0)


def test_what_a_client_sends_late_is_latency_too():
    """A client that stands still for 10 seconds owes the calls that were due meanwhile."""

    def stalling(loop):
        calls = itertools.count()

        async def send(kind):
            if next(calls) == 3:
                loop._now += 10.0  # as if the process had been stopped
            return Outcome()

        return send

    tally = drive(Load({"server": "s"}, KINDS, rate=5.0, duration=20.0), stalling)
    late = [lag for lag in tally.lag if lag > 0.5]
    assert len(late) > 30
    assert max(late) <= 10
    assert all(latency >= lag for latency, lag in zip(tally.latency, tally.lag, strict=True))


def test_what_begins_while_the_load_settles_is_sent_and_not_counted():
    for rate in (None, 4.0):
        load = Load({"server": "s"}, KINDS, rate=rate, concurrency=1, duration=6.0, settle=4.0)
        tally = drive(load, one_at_a_time(0.01))
        assert min(tally.due) >= 4.0
        assert max(tally.due) < 10.0
        assert tally.sent == tally.ended > len(tally.due) > 10


class HastyTime:
    """The time, for a clock whose event loop wakes every sleeper a little early, as uvloop's does; in virtual time."""

    def __init__(self):
        self.now = 100.0

    def monotonic(self):
        return self.now

    async def sleep(self, seconds):
        self.now += seconds - 0.001 if seconds > 0.002 else seconds


@pytest.mark.parametrize("load", [{"calls": 7}, {"duration": 2.0}])
def test_every_call_counts_though_the_event_loop_wakes_the_process_before_the_load_begins(monkeypatch, load):
    """A call that was sent a moment before the beginning would be taken for one of the time that settles."""
    hasty = HastyTime()
    monkeypatch.setattr(driving, "time", hasty)
    monkeypatch.setattr(asyncio, "sleep", hasty.sleep)

    async def send(kind):
        hasty.now += 0.5
        return Outcome()

    driver = Driver(Load({"server": "s"}, KINDS, concurrency=2, **load), send, MonotonicClock())
    asyncio.run(driver.run(begin=100.2))
    assert len(driver.tally.due) == driver.tally.sent == load.get("calls", 4)
    assert min(driver.tally.due) == pytest.approx(100.2)
    assert min(driver.tally.due) >= 100.2


def test_parts_of_a_load_add_up_and_travel():
    load = Load({"server": "s"}, KINDS, concurrency=5, calls=11, warm_up=3, processes=3, seed=7)
    parts = [load.part(index) for index in range(3)]
    assert [part.concurrency for part in parts] == [2, 2, 1]
    assert sum(part.calls for part in parts) == 11
    assert sum(part.warm_up for part in parts) == 3
    assert len({part.seed for part in parts}) == 3
    assert Load({"server": "s"}, KINDS, rate=9.0, duration=1.0, processes=3).part(1).rate == 3.0
    binary = Load({"server": "s", "tls": False}, (Kind("x+y", 2.0, (b"\x00\xff", b"\n")),), calls=1)
    assert Load.from_json(binary.to_json()) == binary
    assert "\n" not in binary.to_json()
    assert processes_for(8, concurrency=3, calls=2) == 2


@pytest.mark.parametrize(
    "wrong",
    [{}, {"calls": 1, "duration": 1.0}, {"rate": 1.0, "calls": 1}, {"calls": 1, "kinds": ()}],
)
def test_a_load_that_has_no_end_or_nothing_to_send_is_refused(wrong):
    with pytest.raises(ValueError, match="a load"):
        Load(**{"connection": {"server": "s"}, "kinds": KINDS, **wrong})


def test_shares_of_methods():
    assert read_mix("grad-cam=3,occlusion") == [(("grad-cam",), 3.0), (("occlusion",), 1.0)]
    assert read_mix("a+b=0.5") == [(("a", "b"), 0.5)]
    for wrong in ("", "a=0", "a=x", "=1", "a=inf", "a,,b", "a+=1"):
        with pytest.raises(ValueError, match=r"METHOD=SHARE|could not convert"):
            read_mix(wrong)


def test_percentiles_are_nearest_ranks():
    values = [float(value) for value in range(1, 1001)]
    random.Random(0).shuffle(values)
    assert summary(values) == {"mean": 500.5, "p50": 500, "p90": 900, "p99": 990, "p99.9": 999, "max": 1000}
    assert summary([7.0]) == dict.fromkeys(("mean", "p50", "p90", "p99", "p99.9", "max"), 7.0)
    assert summary([]) == {}
    assert percentile([1.0, 2.0], 50.0) == 1.0


def test_what_several_processes_counted_becomes_one_report():
    first, second = Tally(sent=2, ended=2), Tally(sent=3, ended=2, twice=1, processor_seconds=0.3)
    first.add(0, 10.0, 10.5, 11.0, Outcome("RESOURCE_EXHAUSTED QUEUE_FULL", retry_after=2.0))
    first.add(0, 11.0, 11.0, 13.0, Outcome(executions=[Execution(4, 0.5, 1.0)]))
    second.add(1, 10.0, 10.0, 14.0, Outcome("UNAVAILABLE WORKER_LOST"))
    second.add(1, 12.0, 12.0, 15.0, Outcome("RESOURCE_EXHAUSTED QUEUE_FULL"))
    first.ends, second.ends = [9.9, 13.0, 15.0], [10.0]
    tallies = [Tally.from_json(tally.to_json()) for tally in (first, second)]
    load = Load({"server": "s"}, (Kind("a", 1.0, (b"",)), Kind("b", 1.0, (b"",))), rate=1.0, duration=5.0, settle=1.0)
    facts = Report(load, 9.0, together(tallies)).as_json()
    assert facts["errors"] == {"RESOURCE_EXHAUSTED QUEUE_FULL": 2, "UNAVAILABLE WORKER_LOST": 1}
    full = facts["failures"]["RESOURCE_EXHAUSTED QUEUE_FULL"]
    assert (full["with_retry_after"], full["latency"]["max"], full["latency_from_sending"]["p50"]) == (1, 3.0, 0.5)
    assert (facts["calls"], facts["succeeded"], facts["latency"]["max"]) == (4, 1, 2.0)
    assert facts["seconds"] == 5.0  # from the end of the settling, at 10, to the last end, at 15
    assert facts["throughput"] == 0.4  # two answers that ended in the 5 seconds from 10 on
    assert (facts["unanswered"], facts["answered_twice"]) == (1, 1)
    assert facts["batch_sizes"] == {4: 1}
    assert [kind["calls"] for kind in facts["kinds"].values()] == [2, 2]
    assert facts["processor_ms_per_call"] == pytest.approx(60)


def test_pictures_that_are_made_are_as_long_as_photographs_and_the_same_from_the_same_seed():
    data = synthetic(400, 300, 1)
    with Image.open(io.BytesIO(data)) as picture:
        assert (picture.format, picture.size, picture.mode) == ("JPEG", (400, 300), "RGB")
    assert 0.2 < len(data) / (400 * 300) < 0.4
    assert data == synthetic(400, 300, 1) != synthetic(400, 300, 2)
