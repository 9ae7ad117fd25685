"""Threads that give way, and the ones that do not."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

import whylight.worker.niceness
from whylight.subject.cancel import CancelToken
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.intake import DECODE_NICENESS, Intake
from whylight.worker.niceness import LEAST_PRIORITY, give_way, give_way_with_all
from whylight.worker.v1 import worker_pb2

linux = pytest.mark.skipif(sys.platform != "linux", reason="threads have no niceness of their own")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def after(steps: int) -> int:
    """Return the niceness of a thread that gave way."""
    with ThreadPoolExecutor(1, initializer=give_way, initargs=(steps,)) as pool:
        return pool.submit(niceness).result(60)


@linux
def test_a_thread_gives_way_and_no_other_does() -> None:
    before = niceness()
    assert after(3) == min(before + 3, LEAST_PRIORITY)
    assert after(100) == LEAST_PRIORITY
    assert niceness() == before


def test_a_thread_that_may_not_works_all_the_same(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*args: int) -> None:
        raise PermissionError("not permitted")

    monkeypatch.setattr(os, "setpriority", refuse, raising=False)
    with ThreadPoolExecutor(1, initializer=give_way, initargs=(3,)) as pool:
        assert pool.submit(lambda: "done").result(60) == "done"
    assert ("not permitted" in caplog.text) == (sys.platform == "linux")


def test_elsewhere_nothing_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.delattr(os, "setpriority", raising=False)
    give_way(3)


@linux
def test_a_worker_gives_way_with_the_threads_that_it_starts_and_with_its_session(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    session = tmp_path / "autogroup"
    session.write_text("0")
    monkeypatch.setattr(whylight.worker.niceness, "_SESSION", session)
    before, seen = niceness(), []

    def work() -> None:
        give_way_with_all(4)
        with ThreadPoolExecutor(1) as pool:
            seen.extend((niceness(), pool.submit(niceness).result(60)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [min(before + 4, LEAST_PRIORITY)] * 2
    assert session.read_text() == "4"
    assert niceness() == before


@linux
def test_a_session_that_may_not_give_way_is_told_of(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(whylight.worker.niceness, "_SESSION", tmp_path)  # a folder, which nobody can write
    monkeypatch.setattr(os, "setpriority", lambda *_: None)
    give_way_with_all(4)
    assert "does not give way" in caplog.text


class Decoder:
    """Decodes an item to the niceness of the thread that does it."""

    def plan(self, spec: worker_pb2.PlanSpec) -> None:
        return None

    def decode_together(self, plan: None, items: Any) -> dict[int, Any]:
        return {}

    def decode_pictures(self, plan: None, pictures: Any, check: Callable[[], None]) -> None:
        return None

    def decode(self, plan: None, item: worker_pb2.Item, pictures: Any = None) -> int:
        return niceness()

    def gather(self, plan: None, items: Any) -> None:
        return None


@linux
@pytest.mark.parametrize("kind", [catalog_pb2.METHOD_KIND_ATTRIBUTION, catalog_pb2.METHOD_KIND_SYNTHESIS])
def test_who_decodes_gives_way_to_who_computes(kind: int) -> None:
    intake = Intake(Decoder(), 2)
    spec = worker_pb2.PlanSpec(methods=[v1.MethodCall(name="m")], kind=kind)
    intake.take(worker_pb2.Batch(spec=spec, items=[worker_pb2.Item(item_id=1)]), [CancelToken()])
    job = intake.get()
    assert job is not None
    assert job.inputs[0].result() == min(niceness() + DECODE_NICENESS, LEAST_PRIORITY)
    intake.shut_down()
