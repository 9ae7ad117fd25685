"""Long work in a worker: when its steps are taken, and that it ends with its caller; the pipe tells what is there."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from typing import Any

import pytest

from whylight.engine import frames
from whylight.errors import Cancelled, InvalidInput, WhylightError
from whylight.explanation import Explained, Explanation
from whylight.subject.cancel import CancelToken
from whylight.target import ClassIndex
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.loop import Ended, Loop, News
from whylight.worker.outbox import Preview
from whylight.worker.v1 import worker_pb2

ATTRIBUTION = catalog_pb2.METHOD_KIND_UNSPECIFIED


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

    def decode_together(self, plan: str, items: Sequence[worker_pb2.Item]) -> dict[int, str]:
        return {}

    def decode(self, plan: str, item: worker_pb2.Item) -> str:
        return item.input.image.decode()

    def device_use(self) -> None:
        return None

    def gather(self, plan: str, items: Sequence[str]) -> None:
        return None

    def explain(
        self, plan: str, items: Sequence[str], cancels: Sequence[CancelToken], tell: Any, ahead: Any
    ) -> list[Explained]:
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
                tell(Preview(1, 3, partial(worker_pb2.ItemPreview, item_id=1, step=step)))
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

    def send(
        self,
        name: str,
        *items: str,
        kind: int = catalog_pb2.METHOD_KIND_SYNTHESIS,
        first_id: int = 1,
        decoded: bool = True,
    ) -> None:
        """Give work and return when it is decoded: frames are taken in one after the other."""
        spec = worker_pb2.PlanSpec(methods=[v1.MethodCall(name=name)], kind=kind)
        batch = worker_pb2.Batch(batch_id=first_id, spec=spec)
        for number, item in enumerate(items):
            batch.items.add(item_id=first_id + number, input=v1.Input(image=item.encode()))
        frames.send(self.end, worker_pb2.FrontEndFrame(batch=batch))
        self.sync()
        with self.loop._intake._changed:
            self.loop._intake._changed.wait_for(lambda: not decoded or not self.loop._intake.undecoded)

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
    front.send("grad-cam", "x", kind=ATTRIBUTION, first_id=50)
    service.go.release()
    assert [service.events.get() for _ in range(2)] == ["batch x", "a2"]


def test_between_two_batches_a_job_has_one_step(front: Front, service: Service):
    front.send("long", "a")
    assert service.events.get() == "a1"
    for number, name in enumerate("xyz"):
        front.send("grad-cam", name, kind=ATTRIBUTION, first_id=50 + number)
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


def test_each_picture_that_is_decoded_is_a_sign_of_life(
    front: Front, service: Service, monkeypatch: pytest.MonkeyPatch
):
    """Some small files hold so many pixels that a batch of them would be taken for a worker that is stuck."""
    release, usual = threading.Semaphore(0), service.decode

    def decode(plan: str, item: worker_pb2.Item) -> str:
        assert release.acquire()
        return usual(plan, item)

    service.decode = decode  # type: ignore[method-assign]
    front.send("grad-cam", *"xyzuvw", kind=ATTRIBUTION, decoded=False)
    for _ in range(4):
        while front.loop._pulse.fresh():  # two threads have begun: then both wait
            threading.Event().wait(0.01)
        release.release()
        while not front.loop._pulse.fresh():
            threading.Event().wait(0.001)
    release.release(2)
    front.until_done(1)
    assert service.events.get() == "batch x y z u v w"


def test_work_that_hangs_gives_no_sign_of_life_and_a_step_that_asks_whether_it_is_wanted_does(
    front: Front, service: Service
):
    asked = threading.Semaphore(0)
    going = threading.Event()

    def explain(
        plan: str, items: Sequence[str], cancels: Sequence[CancelToken], tell: Any, ahead: Any
    ) -> list[Explained]:
        going.set()
        while not asked.acquire(timeout=60):
            raise AssertionError
        whole = CancelToken(cancels)  # as a method sees it
        whole.check()
        going.set()
        assert asked.acquire(timeout=60)
        return [explained(item) for item in items]

    service.explain = explain  # type: ignore[method-assign]
    front.send("grad-cam", "x", "y", kind=ATTRIBUTION)
    assert going.wait(60)
    front.loop._pulse.fresh()
    going.clear()
    assert not front.loop._pulse.fresh(), "it hangs"
    asked.release()
    assert going.wait(60)
    assert front.loop._pulse.fresh()
    asked.release()
    front.until_done(1)


def test_the_pictures_of_long_work_hold_up_no_batch_and_no_other_job(front: Front, service: Service):
    """An inspection may have hundreds of them, which take minutes to decode."""
    release, usual = threading.Event(), service.decode
    decoding = threading.Event()

    def decode(plan: str, item: worker_pb2.Item, pictures: Any = None) -> str:
        if item.input.image == b"slow":
            decoding.set()
            assert release.wait(60)
        return usual(plan, item)

    service.decode = decode  # type: ignore[method-assign]
    front.send("long", "a")
    assert service.events.get() == "a1"
    front.send("long", "slow", first_id=20, decoded=False)
    assert decoding.wait(60)
    front.send("grad-cam", "x", kind=ATTRIBUTION, first_id=50, decoded=False)
    front.send("grad-cam", "y", kind=ATTRIBUTION, first_id=60, decoded=False)
    with front.loop._intake._changed:
        front.loop._intake._changed.wait_for(lambda: front.loop._intake.undecoded == 1)
    service.go.release(3)
    assert [service.events.get() for _ in range(5)] == ["batch x", "a2", "batch y", "a3", "a freed"]
    front.until_done(3)
    release.set()
    service.go.release(3)
    assert [service.events.get() for _ in range(4)] == ["slow1", "slow2", "slow3", "slow freed"]


def test_the_pictures_of_a_call_are_decoded_once_and_shared(front: Front, service: Service):
    made: list[Any] = []
    given: list[Any] = []

    def decode_pictures(plan: str, pictures: Sequence[v1.Input], check: Callable[[], None]) -> Any:
        check()
        made.append([picture.image for picture in pictures])
        return object()

    def decode(plan: str, item: worker_pb2.Item, pictures: Any = None) -> str:
        given.append(pictures)
        return item.input.image.decode()

    service.decode_pictures = decode_pictures  # type: ignore[attr-defined]
    service.decode = decode  # type: ignore[method-assign]
    spec = worker_pb2.PlanSpec(methods=[v1.MethodCall(name="long")], kind=catalog_pb2.METHOD_KIND_SYNTHESIS)
    batch = worker_pb2.Batch(batch_id=1, spec=spec)
    for data in (b"one", b"two"):
        batch.picture_sets.add(pictures=[v1.Input(image=data)])
    for number, picture_set in enumerate([1, 1, 2, 1, 0]):
        batch.items.add(item_id=number, input=v1.Input(image=b"abcde"[number : number + 1]), picture_set=picture_set)
    frames.send(front.end, worker_pb2.FrontEndFrame(batch=batch))
    service.go.release(3)
    front.until_done(1)
    assert made == [[b"one"], [b"two"]]
    assert given[0] is given[1] is given[3] is not given[2]
    assert given[4] is None


def test_pictures_that_cannot_be_read_fail_the_items_that_share_them(front: Front, service: Service):
    def decode_pictures(plan: str, pictures: Sequence[v1.Input], check: Callable[[], None]) -> Any:
        raise InvalidInput("no picture", reason="IMAGE_UNREADABLE", field="inputs[0]")

    service.decode_pictures = decode_pictures  # type: ignore[attr-defined]
    spec = worker_pb2.PlanSpec(methods=[v1.MethodCall(name="long")], kind=catalog_pb2.METHOD_KIND_SYNTHESIS)
    batch = worker_pb2.Batch(batch_id=1, spec=spec, picture_sets=[worker_pb2.PictureSet()])
    for number in range(2):
        batch.items.add(item_id=number, picture_set=1)
    frames.send(front.end, worker_pb2.FrontEndFrame(batch=batch))
    heard = front.until_done(1)
    errors = [frame.result.result.error for frame in heard if frame.HasField("result")]
    assert [(error.reason, error.violations[0].field) for error in errors] == [("IMAGE_UNREADABLE", "inputs[0]")] * 2


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
