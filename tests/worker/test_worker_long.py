"""Long work in a worker: when its steps are taken, and that it ends with its caller; the pipe tells what is there."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import pytest

from whylight.engine import frames
from whylight.errors import Cancelled, WhylightError
from whylight.explanation import Explained, Explanation
from whylight.subject.cancel import CancelToken
from whylight.target import ClassIndex
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.loop import Ended, Loop, News
from whylight.worker.v1 import worker_pb2


def explained(label: str) -> Explained:
    return Explained((), (Explanation("m", "1", {}, ClassIndex(0), label, 0.0, 0.0, 0.0, ()),), (1, 1), (1, 1))


class Service:
    """Long work of three steps, each of which says that it begins and waits to be let on. A batch says that it ran."""

    def __init__(self, steps: int = 3) -> None:
        self.events: queue.Queue[str] = queue.Queue()
        self.go = threading.Semaphore(0)
        self.steps = steps

    def answer(self, question: worker_pb2.PlanRequest) -> worker_pb2.PlanReply:
        return worker_pb2.PlanReply(request_id=question.request_id)

    def plan(self, spec: worker_pb2.PlanSpec) -> str:
        return spec.methods[0].name

    def decode(self, plan: str, item: worker_pb2.Item) -> str:
        return item.input.image.decode()

    def explain(self, plan: str, items: Sequence[str], cancels: Sequence[CancelToken], tell: Any) -> list[Explained]:
        self.events.put(f"batch {' '.join(items)}")
        return [explained(item) for item in items]

    def begin(
        self, plan: str, items: Sequence[str], cancels: Sequence[CancelToken], tell: Callable[[News], None]
    ) -> Generator[Ended, None, None]:
        try:
            for step in range(1, self.steps + 1):
                gone = [(place, Cancelled("gone")) for place, cancel in enumerate(cancels) if cancel.cancelled]
                if len(gone) == len(items):
                    yield gone
                    return
                self.events.put(f"{items[0]}{step}")
                self.go.acquire()
                tell(worker_pb2.ItemPreview(item_id=1, step=step))
                if step < self.steps:
                    yield ()
            outcomes: list[tuple[int, Explained | WhylightError]] = [(n, explained(x)) for n, x in enumerate(items)]
            yield outcomes
        finally:
            self.events.put(f"{items[0]} freed")

    def sound(self) -> bool:
        return True


class Front:
    """The front end's side of the socket."""

    def __init__(self, service: Service) -> None:
        self.end, self.worker = socket.socketpair()
        self.service = service
        self.loop = Loop(self.worker, service)
        self.thread = threading.Thread(target=self.loop.run)
        self.thread.start()
        self.heard: list[worker_pb2.WorkerFrame] = []
        self._numbers = iter(range(100))

    def send(self, name: str, *items: str, kind: int = catalog_pb2.METHOD_KIND_SYNTHESIS, first_id: int = 1) -> None:
        """Give work and return when the worker has it in its queue: frames are taken in one after the other."""
        spec = worker_pb2.PlanSpec(methods=[v1.MethodCall(name=name)], kind=kind)
        batch = worker_pb2.Batch(batch_id=first_id, spec=spec)
        for number, item in enumerate(items):
            batch.items.add(item_id=first_id + number, input=v1.Input(image=item.encode()))
        frames.send(self.end, worker_pb2.FrontEndFrame(batch=batch))
        self.sync()

    def sync(self) -> None:
        """Return when the worker has taken in everything that was sent to it."""
        number = next(self._numbers)
        frames.send(self.end, worker_pb2.FrontEndFrame(plan=worker_pb2.PlanRequest(request_id=number)))
        while not (frame := self._hear()).HasField("plan"):
            self.heard.append(frame)

    def until_done(self, count: int) -> list[worker_pb2.WorkerFrame]:
        """Return all that the worker has said once so many batches are done."""
        while sum(frame.HasField("done") for frame in self.heard) < count:
            self.heard.append(self._hear())
        return self.heard

    def _hear(self) -> worker_pb2.WorkerFrame:
        frame = frames.receive(self.end, worker_pb2.WorkerFrame)
        assert frame is not None
        return frame


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def front(service: Service) -> Iterator[Front]:
    made = Front(service)
    yield made
    service.go.release(100)
    with contextlib.suppress(OSError):
        made.end.shutdown(socket.SHUT_RDWR)
    made.thread.join()
    made.end.close()
    made.worker.close()


def test_a_batch_that_arrives_during_a_step_is_done_before_the_next(front: Front, service: Service):
    front.send("long", "a")
    assert service.events.get() == "a1"
    front.send("grad-cam", "x", kind=catalog_pb2.METHOD_KIND_UNSPECIFIED, first_id=50)
    service.go.release()
    assert [service.events.get() for _ in range(2)] == ["batch x", "a2"]


def test_between_two_batches_a_job_has_one_step(front: Front, service: Service):
    front.send("long", "a")
    assert service.events.get() == "a1"
    for number, name in enumerate("xyz"):
        front.send("grad-cam", name, kind=catalog_pb2.METHOD_KIND_UNSPECIFIED, first_id=50 + number)
    service.go.release(3)
    assert [service.events.get() for _ in range(6)] == ["batch x", "a2", "batch y", "a3", "a freed", "batch z"]


def test_jobs_take_turns_and_their_items_have_their_results(front: Front, service: Service):
    front.send("long", "a", "b")
    assert service.events.get() == "a1"
    front.send("long", "c", first_id=10)
    service.go.release(6)
    order = [service.events.get() for _ in range(7)]
    assert order == ["a2", "c1", "a3", "a freed", "c2", "c3", "c freed"] or order == [
        "c1", "a2", "c2", "a3", "a freed", "c3", "c freed"
    ]  # fmt: skip
    heard = front.until_done(2)
    results = {frame.result.item_id: frame.result for frame in heard if frame.HasField("result")}
    assert {id: one.result.explained.explanations[0].target_label for id, one in results.items()} == {
        1: "a",
        2: "b",
        10: "c",
    }
    assert [frame.preview.step for frame in heard if frame.HasField("preview")].count(3) == 2
    assert any(frame.HasField("alive") for frame in heard)


def test_while_pictures_are_decoded_the_worker_says_that_it_lives(
    front: Front, service: Service, monkeypatch: pytest.MonkeyPatch
):
    """Some small files hold so many pixels that a batch of them would be taken for a worker that is stuck."""
    monkeypatch.setattr("whylight.worker.loop._ALIVE", 0.01)
    release, usual = threading.Event(), service.decode

    def decode(plan: str, item: worker_pb2.Item) -> str:
        assert release.wait()
        return usual(plan, item)

    service.decode = decode  # type: ignore[method-assign]
    front.send("grad-cam", "x", kind=catalog_pb2.METHOD_KIND_UNSPECIFIED)
    while not any(frame.HasField("alive") for frame in front.heard):
        front.heard.append(front._hear())
    assert service.events.empty()
    release.set()
    front.until_done(1)
    assert service.events.get() == "batch x"


def test_a_job_that_nobody_waits_for_ends_before_its_next_step(front: Front, service: Service):
    front.send("long", "a")
    assert service.events.get() == "a1"
    frames.send(front.end, worker_pb2.FrontEndFrame(cancel=worker_pb2.Cancel(item_ids=[1])))
    front.sync()
    service.go.release()
    assert service.events.get() == "a freed"


def test_one_of_two_that_goes_away_takes_nothing_from_the_other(front: Front, service: Service):
    front.send("long", "a", "b")
    assert service.events.get() == "a1"
    frames.send(front.end, worker_pb2.FrontEndFrame(cancel=worker_pb2.Cancel(item_ids=[1])))
    front.sync()
    service.go.release(3)
    assert [service.events.get() for _ in range(3)] == ["a2", "a3", "a freed"]


def test_a_front_end_that_is_gone_ends_all_jobs_within_a_step(front: Front, service: Service):
    front.send("long", "a")
    assert service.events.get() == "a1"
    front.end.shutdown(socket.SHUT_RDWR)
    deadline = threading.Event()
    while not all(token.cancelled for token in front.loop._cancels.values()):
        deadline.wait(0.001)
    service.go.release()
    assert service.events.get() == "a freed"
    front.thread.join()


def test_a_drain_waits_for_jobs(front: Front, service: Service):
    front.send("long", "a")
    frames.send(front.end, worker_pb2.FrontEndFrame(drain=worker_pb2.Drain()))
    service.go.release(3)
    front.thread.join()
    assert [service.events.get() for _ in range(4)] == ["a1", "a2", "a3", "a freed"]


def test_long_work_that_raises_or_ends_early_leaves_no_item_without_a_result(front: Front, service: Service):
    def broken(*_: Any) -> Generator[Ended, None, None]:
        yield ()
        raise RuntimeError("a secret of ours")

    service.begin = broken  # type: ignore[method-assign]
    front.send("long", "a", "b")
    heard = front.until_done(1)
    results = [frame.result.result.error for frame in heard if frame.HasField("result")]
    assert [error.reason for error in results] == ["INTERNAL", "INTERNAL"]
    assert "secret" not in results[0].message
