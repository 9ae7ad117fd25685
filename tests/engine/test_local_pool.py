"""Worker processes: their start, their log, their loss and return, their end. The workers here are scripted."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import pytest
import uvloop
from engine_fakes import labels, spec_of

from whylight.engine import Bounds, Engine, LocalPool, State, Work
from whylight.engine.local_pool import MEASURED, Backoff
from whylight.engine.local_worker import LocalWorker
from whylight.engine.pool import WorkerStartError
from whylight.errors import Unavailable
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.config import WorkerConfig
from whylight.worker.v1 import worker_pb2

COMMAND = (sys.executable, str(Path(__file__).with_name("scripted_worker.py")))
QUICK = Backoff(first=0.01, most=0.02)


def pool_of(*behaviours: str, start_timeout: float = 120.0, **script: str) -> LocalPool:
    configs = [WorkerConfig(models=({"behaviour": behaviour, **script},)) for behaviour in behaviours]
    return LocalPool(configs, command=COMMAND, backoff=QUICK, start_timeout=start_timeout)


@asynccontextmanager
async def started(pool: LocalPool, bounds: Bounds | None = None, grace: float = 60.0) -> AsyncIterator[Engine]:
    engine = Engine(pool, bounds)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.drain(grace)


def call(engine: Engine, *names: str) -> asyncio.Task[list[v1.InputResult]]:
    work = Work(spec_of("grad-cam"), [v1.Input(image=name.encode()) for name in names])
    return asyncio.ensure_future(engine.explain(work))


async def state_of(engine: Engine, wanted: State) -> None:
    """Wait for a state."""
    reached = asyncio.Event()
    engine.on_state_change(lambda state: reached.set() if state is wanted else None)
    if engine.state is not wanted:
        await reached.wait()


def is_running(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


async def test_work_goes_to_the_processes_and_comes_back_and_they_exit_at_the_end() -> None:
    pool = pool_of("work", "work")
    async with started(pool, Bounds(max_batch_items=2)) as engine:
        assert engine.state is State.READY
        pids = list(pool.pids.values())
        calls = [call(engine, f"a{n}", f"b{n}", f"c{n}") for n in range(20)]
        for n, task in enumerate(calls):
            assert labels(await task) == [f"a{n}", f"b{n}", f"c{n}"]
    assert engine.state is State.STOPPED
    assert len(set(pids)) == 2
    assert not any(is_running(pid) for pid in pids)


async def test_a_worker_has_a_session_of_its_own_and_none_of_our_files() -> None:
    with open(os.devnull) as ours:
        os.set_inheritable(ours.fileno(), True)
        pool = pool_of("work")
        async with started(pool) as engine:
            facts = engine.catalog.library_versions
            assert facts["session"] == str(pool.pids[0])
            # stdin, stdout, stderr, the socket, and the directory that it is looking at
            assert len(facts["files"].split(",")) == 5


@pytest.mark.parametrize(
    ("behaviour", "said"),
    [
        ("refuse", "there is no such model"),
        ("exit", r"exited with code 3(?s:.*)the last words"),
        ("garbage", "broke off its start"),
        ("silent", "not ready after 1 seconds"),
    ],
)
async def test_a_first_start_that_fails_says_why_and_leaves_nothing_running(behaviour: str, said: str) -> None:
    before = set(psutil.Process().children(recursive=True))
    engine = Engine(pool_of("work", behaviour, start_timeout=1.0 if behaviour == "silent" else 120.0))
    with pytest.raises(WorkerStartError, match=said):
        await engine.start()
    assert set(psutil.Process().children(recursive=True)) == before


async def test_a_command_that_does_not_exist_is_a_start_that_fails() -> None:
    pool = LocalPool([WorkerConfig()], command=("/no/such/program",))
    with pytest.raises(WorkerStartError, match="/no/such/program"):
        await pool.start(Engine(pool))


async def test_a_start_that_is_cancelled_leaves_nothing_running() -> None:
    before = set(psutil.Process().children(recursive=True))
    engine = Engine(pool_of("work", "silent"))
    starting = asyncio.ensure_future(engine.start())
    await state_of(engine, State.READY)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert set(psutil.Process().children(recursive=True)) == before


async def test_a_worker_whose_end_is_waited_for_is_collected_even_if_the_wait_is_cancelled() -> None:
    """As in a pool that stops while a worker of it is being ended: none of them may be left, not even as a zombie."""
    pids = []

    async def begin_and_end() -> None:
        (config,) = pool_of("silent")._configs
        async with LocalWorker.running("worker 0", COMMAND, config) as worker:
            pids.append(worker.pid)
            asyncio.current_task().cancel()  # it comes at the next wait: for the worker's exit

    with pytest.raises(asyncio.CancelledError):
        await asyncio.ensure_future(begin_and_end())
    assert not psutil.pid_exists(*pids)


async def lose_and_recover(last_words: str) -> None:
    pool = pool_of("work")
    async with started(pool, Bounds(max_batch_items=1)) as engine:
        first = pool.pids[0]
        calls = [call(engine, name) for name in ("before", last_words, "ahead", "waits")]
        assert labels(await calls[0]) == ["before"]
        for held in calls[1:3]:
            with pytest.raises(Unavailable) as caught:
                await held
            assert caught.value.reason == "WORKER_LOST"
            assert caught.value.retry_after > 0
        assert labels(await calls[3]) == ["waits"], "what was not at the worker waits for the next"
        assert pool.pids[0] != first
        assert not is_running(first)
        assert labels(await call(engine, "after")) == ["after"]


@pytest.mark.parametrize("last_words", ["die", "garbage"])
async def test_a_lost_worker_fails_what_it_held_and_is_started_again(last_words: str) -> None:
    await lose_and_recover(last_words)


async def test_a_worker_killed_by_a_signal_without_a_name_is_started_again() -> None:
    pool = pool_of("work")
    async with started(pool) as engine:
        first = pool.pids[0]
        os.kill(first, signal.SIGRTMIN + 1)
        await state_of(engine, State.UNAVAILABLE)
        await asyncio.wait_for(state_of(engine, State.READY), 60)
        assert pool.pids[0] != first
        assert labels(await call(engine, "after")) == ["after"]


def test_the_same_on_uvloop() -> None:
    loop = uvloop.new_event_loop()
    try:
        loop.run_until_complete(lose_and_recover("die"))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def test_one_of_two_workers_lost_leaves_the_server_ready() -> None:
    pool = pool_of("work", "work")
    async with started(pool) as engine:
        states = []
        engine.on_state_change(states.append)
        with pytest.raises(Unavailable):
            await call(engine, "die")
        assert labels(await call(engine, "after")) == ["after"]
        assert states == []


class Restarts:
    """Has a worker load a model, kills it when it has, and keeps what workers say they were told at their start."""

    def __init__(self, pool: LocalPool) -> None:
        self.pool = pool
        self.told: list[str] = []
        self.enough = asyncio.Event()

    def worker_up(self, worker: int, ready: worker_pb2.Ready) -> None:
        self.told.append(ready.library_versions["told"])
        if len(self.told) == 3:
            self.enough.set()
        elif len(self.told) == 2:
            self.pool.send(worker, worker_pb2.FrontEndFrame(load=worker_pb2.LoadModel(name="m", generation=2)))
        else:
            self.pool.kill(worker)

    def worker_said(self, worker: int, frame: worker_pb2.WorkerFrame) -> None:
        assert frame.loaded.generation == 2
        self.pool.kill(worker)

    def worker_down(self, worker: int, retry_after: float) -> None:
        pass


async def test_a_worker_that_is_started_again_is_told_what_was_measured_before() -> None:
    pool = pool_of("work")
    listener = Restarts(pool)
    await pool.start(listener)
    await asyncio.wait_for(listener.enough.wait(), 120)
    await pool.stop(0.0)
    assert listener.told == ["", "at-start=a", "at-start=a,at-load=b"]


def test_what_was_measured_is_kept_for_the_last_models_only() -> None:
    pool = pool_of("work")
    for number in range(MEASURED + 5):
        pool._remember({"used": "again", str(number): "m"})
    assert len(pool._measured) == MEASURED
    assert pool._measured["used"] == "again"
    assert "5" not in pool._measured
    assert str(MEASURED + 4) in pool._measured


class Listener:
    """Counts what the pool tells, and ends the wait of a test at the third loss."""

    def __init__(self, pool: LocalPool) -> None:
        self.pool = pool
        self.downs: list[float] = []
        self.enough = asyncio.Event()

    def worker_up(self, worker: int, ready: worker_pb2.Ready) -> None:
        self.pool.kill(worker)

    def worker_said(self, worker: int, frame: worker_pb2.WorkerFrame) -> None:
        raise AssertionError("it has nothing to say")

    def worker_down(self, worker: int, retry_after: float) -> None:
        self.downs.append(retry_after)
        if len(self.downs) == 3:
            self.enough.set()


async def test_a_worker_that_cannot_be_started_again_is_tried_for_ever(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pool = pool_of("once", mark=str(tmp_path / "mark"))
    listener = Listener(pool)
    await pool.start(listener)
    await listener.enough.wait()
    await pool.stop(0.0)
    assert all(retry_after > 0 for retry_after in listener.downs)
    messages = [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]
    assert "SIGKILL" in messages[0]
    assert "only once" in messages[1]


def test_the_pause_before_a_start_doubles_up_to_its_bound() -> None:
    backoff = Backoff(first=0.5, most=30.0)
    assert [backoff.delay(failures) for failures in (1, 2, 3, 6, 7, 8, 10**6)] == [
        0.5,
        1.0,
        2.0,
        16.0,
        30.0,
        30.0,
        30.0,
    ]


def test_the_time_that_a_worker_was_up_counts_as_pause() -> None:
    backoff = Backoff(first=0.5, most=30.0)
    assert [backoff.delay(failures, up=3.0) for failures in (1, 3, 4, 5, 10)] == [0.0, 0.0, 1.0, 5.0, 27.0]
    assert backoff.delay(10, up=31.0) == 0.0


async def test_a_worker_that_does_not_finish_in_the_grace_is_killed() -> None:
    pool = pool_of("work")
    async with started(pool, grace=0.1) as engine:
        pid = pool.pids[0]
        stuck = call(engine, "hang")
        await asyncio.sleep(0)
    with pytest.raises(Unavailable) as caught:
        await stuck
    assert caught.value.reason == "DRAINING"
    assert not is_running(pid)


async def test_a_stuck_worker_is_killed_and_started_again() -> None:
    pool = pool_of("work")
    engine = Engine(pool, stuck_after=0.2)
    await engine.start()
    with pytest.raises(Unavailable) as caught:
        await call(engine, "hang")
    assert caught.value.reason == "WORKER_LOST"
    engine._dispatcher._stuck_after = 600.0  # the next one is not stuck, however long a busy machine takes over it
    await state_of(engine, State.READY)
    assert labels(await call(engine, "after")) == ["after"]
    await engine.drain()


async def test_what_a_worker_prints_goes_to_the_log_line_by_line(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger="whylight.worker")
    async with started(pool_of("chatty")):
        pass
    lines = [record.getMessage() for record in caplog.records if record.name == "whylight.worker"]
    assert "worker 0: to stdout" in lines
    assert "worker 0: to stderr" in lines
    assert any(line.endswith("xend") for line in lines)
    assert "".join(line.removeprefix("worker 0: ") for line in lines).count("x") == 20000
    assert max(map(len, lines)) < 20000, "a line without an end is cut, not collected"


async def test_what_a_worker_started_does_not_keep_us_from_ending() -> None:
    """A process that outlives the worker holds the other end of its log."""
    pool = pool_of("parent")
    async with started(pool):
        (left,) = psutil.Process(pool.pids[0]).children()
    try:
        assert left.is_running()
    finally:
        left.kill()
