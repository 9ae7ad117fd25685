"""Models that come and go under any sequence of events: no call loses its version, and in the end all is as wanted."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from engine_fakes import settle
from hypothesis import example, given, settings
from hypothesis import strategies as st

from whylight.engine import Engine, ModelChoice
from whylight.engine.pool import PoolListener
from whylight.errors import Unsupported, WhylightError
from whylight.v1 import catalog_pb2
from whylight.wire.errors import error_to_proto
from whylight.worker.v1 import worker_pb2

WORKERS = 2
NAMES = ("a", "b")
BROKEN = "broken"


class MemoryPool:
    """Workers that remember what they hold, and load and forget when a test lets them."""

    size = WORKERS

    def __init__(self) -> None:
        self.listener: PoolListener | None = None
        self.start_with: dict[int, dict[str, tuple[int, str]]] = {worker: {} for worker in range(WORKERS)}
        self.held: dict[int, dict[tuple[str, int], str]] = {}
        self.asked: list[tuple[int, worker_pb2.FrontEndFrame]] = []
        self.edition = 0
        """How often the files of all weights were written over."""

    async def start(self, listener: PoolListener) -> None:
        self.listener = listener

    def configure(self, worker: int, models: Sequence[tuple[int, Mapping[str, Any]]]) -> None:
        self.start_with[worker] = {fields["name"]: (generation, fields["weights"]) for generation, fields in models}

    def up(self, worker: int) -> None:
        """Let a worker come up with what it is to start with, as the weights are now."""
        held = self.held[worker] = {
            (name, generation): f"{weights}{self.edition}"
            for name, (generation, weights) in self.start_with[worker].items()
        }
        models = [catalog_pb2.Model(name=n, generation=g, digest=weights) for (n, g), weights in held.items()]
        self.listener.worker_up(worker, worker_pb2.Ready(device="cpu", models=models))

    def down(self, worker: int) -> None:
        del self.held[worker]
        self.asked = [(other, frame) for other, frame in self.asked if other != worker]
        self.listener.worker_down(worker, 1.0)

    def send(self, worker: int, frame: worker_pb2.FrontEndFrame) -> None:
        if worker in self.held:
            self.asked.append((worker, frame))

    def answer(self) -> None:
        """Do what was asked first; a worker does what it is asked in order."""
        worker, frame = self.asked.pop(0)
        if frame.HasField("unload"):
            name, generation = frame.unload.name, frame.unload.generation
            self.held[worker].pop((name, generation), None)
            reply = worker_pb2.WorkerFrame(unloaded=worker_pb2.ModelUnloaded(name=name, generation=generation))
        else:
            name, generation = frame.load.name, frame.load.generation
            weights = json.loads(frame.load.config)["weights"]
            digest = f"{weights}{self.edition}"
            loaded = worker_pb2.ModelLoaded(name=name, generation=generation)
            if weights == BROKEN:
                loaded.error.CopyFrom(error_to_proto(Unsupported("broken")))
            else:
                assert (name, generation) not in self.held[worker], "a version is loaded once"
                self.held[worker][name, generation] = digest
                loaded.model.CopyFrom(catalog_pb2.Model(name=name, generation=generation, digest=digest))
            reply = worker_pb2.WorkerFrame(loaded=loaded)
        self.listener.worker_said(worker, reply)

    def kill(self, worker: int) -> None:
        raise AssertionError("nobody is stuck")

    async def stop(self, grace: float) -> None:
        pass


def choice(name: str, weights: str) -> ModelChoice:
    return ModelChoice(name, "demo:x", {"name": name, "weights": weights}, tuple(range(WORKERS)))


event = st.one_of(
    st.tuples(st.sampled_from(["load", "reload"]), st.sampled_from(NAMES), st.sampled_from(["v", "w", BROKEN])),
    st.tuples(st.sampled_from(["unload", "begin", "end"]), st.sampled_from(NAMES), st.just("")),
    st.tuples(st.sampled_from(["up", "down"]), st.sampled_from([0, 1]), st.just("")),
    st.tuples(st.just("answer"), st.integers(1, 3), st.just("")),
    st.tuples(st.just("write over"), st.just(0), st.just("")),
)


@settings(max_examples=120, deadline=None)
@given(st.lists(event, max_size=40))
@example([("down", 1, ""), ("reload", "a", "v"), ("reload", "b", "v"), ("up", 1, ""), ("answer", 2, "")])
@example(
    [
        *[("begin", "b", ""), ("down", 1, ""), ("write over", 0, ""), ("reload", "b", "v"), ("up", 1, "")],
        *[("answer", 2, ""), ("answer", 3, "")],
    ]
)
def test_no_call_loses_its_version_and_in_the_end_every_worker_has_what_it_is_to_have(
    events: list[tuple[str, Any, str]],
) -> None:
    async def run() -> None:
        pool = MemoryPool()
        engine = Engine(pool, models=[choice(name, "v") for name in NAMES])
        for worker in range(WORKERS):
            pool.configure(worker, [(1, choice(name, "v").fields) for name in NAMES])
        await engine.start()
        for worker in range(WORKERS):
            pool.up(worker)
        calls: dict[str, list[tuple[contextlib.ExitStack, catalog_pb2.Model]]] = {name: [] for name in NAMES}
        lost: set[tuple[str, int]] = set()
        changes: list[asyncio.Task[None]] = []

        def check() -> None:
            roster = engine._dispatcher.roster
            for name, begun in calls.items():
                for _, model in begun:
                    key = (name, model.generation)
                    holders = [worker for worker, held in pool.held.items() if key in held]
                    assert holders or key in lost, "a version was forgotten that a call is at work on"
                    for worker in holders:
                        if key in roster._up[worker].versions:
                            assert pool.held[worker][key] == model.digest, "a call would get other weights than it says"
                        else:
                            assert any(
                                other == worker and (frame.unload.name, frame.unload.generation) == key
                                for other, frame in pool.asked
                            ), "a version is held that nobody uses or forgets"

        for what, which, weights in events:
            with contextlib.suppress(WhylightError):
                if what in ("load", "reload"):
                    changes.append(getattr(engine.models, what)(choice(which, weights)))
                elif what == "unload":
                    changes.append(engine.models.unload(which))
                elif what == "begin":
                    stack = contextlib.ExitStack()
                    calls[which].append((stack, stack.enter_context(engine.pinned(which))))
                elif what == "end" and calls[which]:
                    calls[which].pop(0)[0].close()
                elif what == "up" and which not in pool.held:
                    pool.up(which)
                elif what == "down" and which in pool.held:
                    lost.update(pool.held[which])
                    pool.down(which)
                elif what == "write over":
                    pool.edition += 1
                elif what == "answer":
                    for _ in range(min(which, len(pool.asked))):
                        pool.answer()
            await settle()
            check()

        for begun in calls.values():
            for stack, _ in begun:
                stack.close()
        for worker in set(range(WORKERS)) - set(pool.held):
            pool.up(worker)
        for _ in range(50):
            await settle()
            while pool.asked:
                pool.answer()
                await settle()
        assert all(task.done() for task in changes), "a change has no end"
        for name, served in engine.models.table.served.items():
            assert not served.calls
            assert set(served.models) <= {served.generation}, "nothing is kept of versions that are gone"
            for worker, held in pool.held.items():
                found = {generation: weights for (other, generation), weights in held.items() if other == name}
                wanted = {served.generation: served.model.digest} if served.wanted else {}
                assert found == wanted or (not found and served.error is not None), (worker, name)
                assert {
                    one.generation for one in engine._dispatcher.roster._up[worker].versions if one.model == name
                } == set(found)
        await engine.drain(0.0)
        await asyncio.gather(*changes, return_exceptions=True)

    asyncio.run(run())


@pytest.mark.parametrize("change", ["unload", "reload"])
async def test_a_late_workers_load_that_nobody_wants_any_more_is_no_failure(change: str) -> None:
    pool = MemoryPool()
    engine = Engine(pool, models=[choice("a", "v")])
    pool.configure(0, [(1, choice("a", "v").fields)])
    await engine.start()
    pool.up(0)
    pool.up(1)  # without the model, which it is asked to load
    await settle()
    assert [frame.load.generation for _, frame in pool.asked] == [1]
    task = engine.models.unload("a") if change == "unload" else engine.models.reload(choice("a", "w"))
    await settle()
    late = pool.asked.pop(0)  # it is slow, and answers behind everything else
    while pool.asked:
        pool.answer()
        await settle()
    pool.asked.append(late)
    while pool.asked:
        pool.answer()
        await settle()
    await task
    status = engine.models.table.status("a")
    wanted = catalog_pb2.MODEL_STATE_UNLOADED if change == "unload" else catalog_pb2.MODEL_STATE_READY
    assert (status.state, status.HasField("error")) == (wanted, False)
    await engine.drain(0.0)
