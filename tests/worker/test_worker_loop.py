"""The threads of a worker, around a service that does as it is told: nothing that happens to an item ends the loop."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from whylight.artifact import Map
from whylight.engine import frames
from whylight.errors import InvalidInput, MethodFailed, WhylightError
from whylight.explanation import Explained, Explanation
from whylight.subject.cancel import CancelToken
from whylight.target import ClassIndex
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import duration_to_seconds, error_to_proto
from whylight.worker.loop import DeviceLost, Loop
from whylight.worker.result import result_frame
from whylight.worker.v1 import worker_pb2


def explained(label: str, *artifacts: Map) -> Explained:
    explanation = Explanation("m", "1", {}, ClassIndex(0), label, 0.0, 0.0, 0.0, artifacts)
    return Explained((), (explanation,), (1, 1), (1, 1))


class Service:
    """Answers an item with its own bytes; a test may put something in place of `compute`."""

    def __init__(self) -> None:
        self.decoded: list[str] = []
        self.reading = threading.Condition()
        self.healthy = True
        self.use: worker_pb2.DeviceUse | None = None
        self.gather: Callable[[str, Sequence[str]], Any] = lambda plan, items: None
        self.compute: Callable[[Sequence[str], Sequence[CancelToken]], Sequence[Explained | WhylightError]] = (
            lambda inputs, cancels: [explained(text) for text in inputs]
        )

    def answer(self, question: worker_pb2.PlanRequest) -> worker_pb2.PlanReply:
        return worker_pb2.PlanReply(request_id=question.request_id, cost=3.0)

    def plan(self, spec: worker_pb2.PlanSpec) -> str:
        if spec.methods[0].name == "wrong":
            raise InvalidInput("no such method", field="methods[0].name")
        return spec.methods[0].name

    def decode_together(self, plan: str, items: Sequence[worker_pb2.Item]) -> dict[int, str]:
        return {}

    def decode(self, plan: str, item: worker_pb2.Item) -> str:
        text = item.input.image.decode()
        with self.reading:
            self.decoded.append(text)
            self.reading.notify_all()
        if text == "bad":
            raise InvalidInput("no picture", field="input.image")
        if text == "bug":
            raise ValueError("a secret of ours")
        if text == "exit":
            raise SystemExit("a secret of a plugin's")
        return text

    def explain(
        self,
        plan: str,
        items: Sequence[str],
        cancels: Sequence[CancelToken],
        tell: Callable[[worker_pb2.ItemProgress], None],
        ahead: Any = None,
    ) -> Sequence[Explained | WhylightError]:
        self.tell = tell
        self.ahead = ahead
        return self.compute(items, cancels)

    def device_use(self) -> worker_pb2.DeviceUse | None:
        return self.use

    def sound(self) -> bool:
        return self.healthy

    def wait_decoded(self, text: str) -> None:
        with self.reading:
            self.reading.wait_for(lambda: text in self.decoded)


class Front:
    """The front end's side of the socket."""

    def __init__(self, service: Service, **options: object) -> None:
        self.connection, theirs = socket.socketpair()
        self.theirs = theirs
        self.service = service
        self.orphaned = threading.Event()
        self.loop = Loop(theirs, service, orphaned=self.orphaned.set, **options)
        self._runner = ThreadPoolExecutor(1)
        self.running = self._runner.submit(self.loop.run)

    def say(self, **body: object) -> None:
        frames.send(self.connection, worker_pb2.FrontEndFrame(**body))

    def batch(self, id: int, *names: str, method: str = "m") -> None:
        items = [
            worker_pb2.Item(item_id=10 * id + place, input=v1.Input(image=name.encode()))
            for place, name in enumerate(names)
        ]
        spec = worker_pb2.PlanSpec(methods=[v1.MethodCall(name=method)])
        self.say(batch=worker_pb2.Batch(batch_id=id, spec=spec, items=items))

    def hear(self) -> worker_pb2.WorkerFrame | None:
        """Return the next frame that is no sign of life; those come when a second has passed."""
        while (frame := frames.receive(self.connection, worker_pb2.WorkerFrame)) is not None and frame.HasField(
            "alive"
        ):
            pass
        return frame

    def outcomes(self, id: int) -> dict[int, str]:
        """Read until a batch is done; labels or reasons by item."""
        found = {}
        while (frame := self.hear()).WhichOneof("body") != "done":
            result = frame.result.result
            assert frame.result.item_id not in found
            found[frame.result.item_id] = (
                result.error.reason if result.HasField("error") else result.explained.explanations[0].target_label
            )
        assert frame.done.batch_id == id
        return found

    def close(self) -> None:
        self.connection.close()
        self.running.exception()
        self._runner.shutdown()
        assert self.orphaned.wait(60)
        self.theirs.close()


@pytest.fixture
def front() -> Iterator[Front]:
    front = Front(Service())
    yield front
    front.close()


def test_every_item_gets_its_result_and_then_the_batch_is_done(front: Front) -> None:
    front.batch(1, "a", "b", "c")
    front.batch(2, "d")
    assert front.outcomes(1) == {10: "a", 11: "b", 12: "c"}
    assert front.outcomes(2) == {20: "d"}


def test_an_item_that_cannot_be_decoded_fails_alone(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    front.batch(1, "a", "bad", "bug", "exit", "b")
    results = {frame.result.item_id: frame.result.result for frame in (front.hear() for _ in range(5))}
    assert results[11].error.reason == "REQUEST_INVALID"
    assert results[11].error.violations[0].field == "input.image"
    for id in (12, 13):
        assert results[id].error.reason == "INTERNAL"
        assert "secret" not in str(results[id])
    assert results[10].explained.explanations[0].target_label == "a"
    assert results[14].explained.explanations[0].target_label == "b"
    assert "a secret of ours" in caplog.text


def test_a_plan_that_is_wrong_after_all_is_every_items_error(front: Front) -> None:
    front.batch(1, "a", "b", method="wrong")
    assert front.outcomes(1) == {10: "REQUEST_INVALID", 11: "REQUEST_INVALID"}


@pytest.mark.parametrize("failure", [RuntimeError("a secret"), SystemExit(1), MemoryError(), None])
def test_whatever_explaining_raises_the_loop_goes_on(front: Front, failure: BaseException | None) -> None:
    def fail(inputs: Sequence[str], cancels: Sequence[CancelToken]) -> Sequence[Explained]:
        if failure is None:
            return []  # one outcome for each input was promised
        raise failure

    usual, front.service.compute = front.service.compute, fail
    front.batch(1, "a", "b")
    assert front.outcomes(1) == {10: "INTERNAL", 11: "INTERNAL"}
    front.service.compute = usual
    front.batch(2, "c")
    assert front.outcomes(2) == {20: "c"}


def test_the_next_batch_is_decoded_while_this_one_computes(front: Front) -> None:
    usual = front.service.compute

    def compute(inputs: Sequence[str], cancels: Sequence[CancelToken]) -> Sequence[Explained | WhylightError]:
        if inputs[0] == "a":
            front.service.wait_decoded("b")
        return usual(inputs, cancels)

    front.service.compute = compute
    front.batch(1, "a")
    front.batch(2, "b")
    assert front.outcomes(1) == {10: "a"}
    assert front.outcomes(2) == {20: "b"}


def test_the_next_batch_is_sent_to_the_device_while_this_one_computes_by_another_thread(front: Front) -> None:
    usual = front.service.compute
    sent: list[Sequence[str]] = []
    there = threading.Event()
    threads: set[str] = set()

    def gather(plan: str, items: Sequence[str]) -> Any:
        threads.add(threading.current_thread().name)
        sent.append(items)
        if items == ["b", "c"]:
            there.set()
        return ("ahead", *items)

    def compute(inputs: Sequence[str], cancels: Sequence[CancelToken]) -> Sequence[Explained | WhylightError]:
        assert front.service.ahead == ("ahead", *inputs)
        threads.discard(threading.current_thread().name)
        assert inputs[0] != "a" or there.wait(60)
        return usual(inputs, cancels)

    front.service.gather, front.service.compute = gather, compute
    front.batch(1, "a")
    front.batch(2, "b", "bad", "c")
    front.batch(3, "bad")
    assert front.outcomes(1) == {10: "a"}
    assert front.outcomes(2) == {20: "b", 21: "REQUEST_INVALID", 22: "c"}
    assert front.outcomes(3) == {30: "REQUEST_INVALID"}
    assert sorted(sent) == [["a"], ["b", "c"]], "what could not be decoded is not sent, nor a batch of nothing else"
    assert threads, "none of them was the one that computes"


def test_batches_come_in_their_order_however_long_one_takes_to_be_sent(front: Front) -> None:
    later = threading.Event()

    def gather(plan: str, items: Sequence[str]) -> None:
        if items == ["a"]:
            assert later.wait(60)
        else:
            later.set()

    front.service.gather = gather
    front.batch(1, "a")
    front.batch(2, "b")
    assert front.outcomes(1) == {10: "a"}
    assert front.outcomes(2) == {20: "b"}


@pytest.mark.parametrize("failure", [RuntimeError("CUDA out of memory"), MemoryError(), SystemExit(3)])
def test_a_batch_that_cannot_be_sent_before_its_turn_is_computed_all_the_same(
    front: Front, failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(plan: str, items: Sequence[str]) -> None:
        raise failure

    front.service.gather = fail
    front.batch(1, "a", "b")
    assert front.outcomes(1) == {10: "a", 11: "b"}
    assert front.service.ahead is None
    assert "a batch of 2 could not be sent" in caplog.text


def test_what_was_decoded_together_is_given_to_its_item_and_the_rest_is_decoded_alone(front: Front) -> None:
    asked: list[list[str]] = []
    usual = front.service.decode

    def decode_together(plan: str, items: Sequence[worker_pb2.Item]) -> dict[int, str]:
        asked.append([item.input.image.decode() for item in items])
        return {item.item_id: item.input.image.decode().upper() for item in items if item.item_id != 11}

    def decode(plan: str, item: worker_pb2.Item, given: str | None = None) -> str:
        return usual(plan, item) if given is None else given

    front.service.decode_together, front.service.decode = decode_together, decode
    front.batch(1, "a", "b", "c")
    assert front.outcomes(1) == {10: "A", 11: "b", 12: "C"}
    assert asked == [["a", "b", "c"]], "once for all of them"


def test_when_decoding_together_fails_each_is_decoded_alone(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    def fail(plan: str, items: Sequence[worker_pb2.Item]) -> dict[int, str]:
        raise MemoryError

    front.service.decode_together = fail
    front.batch(1, "a", "b", "c")
    assert front.outcomes(1) == {10: "a", 11: "b", 12: "c"}
    assert "a batch of 3 could not be decoded together" in caplog.text


def test_plans_are_answered_while_a_batch_computes(front: Front) -> None:
    release = threading.Event()
    usual = front.service.compute
    front.service.compute = lambda inputs, cancels: usual(inputs, cancels) if release.wait() else []
    front.batch(1, "a")
    front.say(plan=worker_pb2.PlanRequest(request_id=7))
    frame = front.hear()
    assert (frame.plan.request_id, frame.plan.cost) == (7, 3.0)
    release.set()
    assert front.outcomes(1) == {10: "a"}


def test_a_cancel_reaches_the_item_that_computes_and_no_other(front: Front) -> None:
    def compute(inputs: Sequence[str], cancels: Sequence[CancelToken]) -> Sequence[Explained | WhylightError]:
        front.say(cancel=worker_pb2.Cancel(item_ids=[11, 999]))
        cancels[1]._event.wait()
        assert not cancels[0].cancelled
        return [explained("a"), explained("b")]

    front.service.compute = compute
    front.batch(1, "a", "b")
    assert front.outcomes(1) == {10: "a", 11: "b"}
    front.say(cancel=worker_pb2.Cancel(item_ids=[10, 11]))
    front.service.compute = lambda inputs, cancels: [explained(str(cancel.cancelled)) for cancel in cancels]
    front.batch(2, "c")
    assert front.outcomes(2) == {20: "False"}, "a cancel of what is done does nothing"


def test_an_item_that_is_cancelled_before_it_is_decoded_is_not_decoded() -> None:
    service = Service()
    front = Front(service, decode_threads=1)
    release = threading.Event()
    usual = service.decode

    def decode(plan: str, item: worker_pb2.Item) -> str:
        text = usual(plan, item)
        assert release.wait()
        return text

    service.decode = decode
    front.batch(1, "a", "b")
    front.say(cancel=worker_pb2.Cancel(item_ids=[11]))
    front.say(batch=worker_pb2.Batch(batch_id=2))  # what is said is heard in order: the cancel was before this
    while front.loop._intake.undecoded < 2:
        service.wait_decoded("a")
    release.set()
    assert front.outcomes(1) == {11: "CANCELLED", 10: "a"}
    assert service.decoded == ["a"]
    front.close()


def test_signs_of_life_tell_what_is_held_of_the_device(front: Front) -> None:
    front.service.use = worker_pb2.DeviceUse(allocated_bytes=5, reserved_bytes=7)
    front.batch(1, "a")
    while not (frame := frames.receive(front.connection, worker_pb2.WorkerFrame)).HasField("alive"):
        pass
    assert frame.alive.device_use == front.service.use


def test_a_reader_that_fails_ends_the_loop(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    """There was no memory for a frame, say: a worker that hears nothing any more must not look well."""

    def fail(batch: worker_pb2.Batch) -> None:
        raise MemoryError

    front.loop._take = fail
    front.batch(1, "a")
    assert front.orphaned.wait(60)
    assert front.running.result(60) is None
    assert "the thread that reads failed" in caplog.text


def test_draining_finishes_everything_before_it_and_ends(front: Front) -> None:
    front.batch(1, "a", "b")
    front.batch(2, "c")
    front.say(drain=worker_pb2.Drain())
    assert front.outcomes(1) == {10: "a", 11: "b"}
    assert front.outcomes(2) == {20: "c"}
    assert front.running.result() is None


def test_when_the_front_end_is_gone_work_is_taken_back_and_the_loop_ends() -> None:
    service = Service()
    front = Front(service)
    begun = threading.Event()
    seen = []

    def compute(inputs: Sequence[str], cancels: Sequence[CancelToken]) -> Sequence[Explained | WhylightError]:
        begun.set()
        cancels[0]._event.wait()
        seen.append(cancels[0].cancelled)
        return [explained("a")]

    service.compute = compute
    front.batch(1, "a")
    assert begun.wait()
    front.close()
    assert seen == [True]
    assert front.orphaned.is_set()


def test_a_device_that_does_not_work_any_more_ends_the_loop_with_its_results_written() -> None:
    service = Service()
    front = Front(service)
    service.healthy = False
    front.batch(1, "fine")
    assert front.outcomes(1) == {10: "fine"}
    service.compute = lambda inputs, cancels: [MethodFailed("a kernel failed") for _ in inputs]
    front.batch(2, "a")
    assert front.outcomes(2) == {20: "METHOD_FAILED"}
    assert isinstance(front.running.exception(), DeviceLost)
    front.close()


def test_an_answer_above_the_bound_becomes_an_error_that_says_what_to_do() -> None:
    import numpy as np

    large = explained("a", Map("map", np.zeros((100, 100), np.float32)))
    assert result_frame(1, large, 0.5).result.result.HasField("explained")
    error = result_frame(1, large, 0.5, limit=1000).result.result.error
    assert (error.reason, error.violations[0].field) == ("OUTPUT_TOO_LARGE", "outputs")


def test_an_answer_that_cannot_be_written_becomes_an_error(caplog: pytest.LogCaptureFixture) -> None:
    import numpy as np

    odd = explained("a", Map("map", np.zeros(3, np.complex64)))
    assert result_frame(1, odd, 0.5).result.result.error.reason == "INTERNAL"
    assert "complex64" in caplog.text


def test_a_result_tells_how_long_it_waited_here() -> None:
    frame = result_frame(3, explained("a"), 0.25)
    execution = frame.result.result.explained.explanations[0].execution
    assert (frame.result.item_id, duration_to_seconds(execution.queue_time)) == (3, 0.25)
    error = InvalidInput("no", field="input")
    assert result_frame(3, error, 0.25).result.result.error == error_to_proto(error)


def test_progress_of_an_item_comes_before_its_result(front: Front) -> None:
    heard = threading.Event()

    def compute(inputs: Sequence[str], cancels: Sequence[CancelToken]) -> Sequence[Explained]:
        front.service.tell(worker_pb2.ItemProgress(item_id=11, done=1, total=2))
        assert heard.wait(60)
        front.service.tell(worker_pb2.ItemProgress(item_id=10, done=2, total=2))
        return [explained(text) for text in inputs]

    front.service.compute = compute
    front.batch(1, "a", "b")
    first = front.hear()
    assert (first.progress.item_id, first.progress.done) == (11, 1)
    heard.set()
    bodies = [front.hear() for _ in range(3)]
    if bodies[0].HasField("progress"):  # the writer was quicker than the result
        assert bodies.pop(0).progress.item_id == 10
        bodies.append(front.hear())
    assert [frame.WhichOneof("body") for frame in bodies] == ["result", "result", "done"]


def test_a_front_end_that_reads_slowly_neither_holds_the_work_nor_makes_progress_pile_up(front: Front) -> None:
    """Nobody reads while a thousand reports of 100 KB are made; a socket holds a few of them."""
    computed = threading.Event()
    plate = v1.Tensor(data=bytes(100_000))

    def compute(inputs: Sequence[str], cancels: Sequence[CancelToken]) -> Sequence[Explained]:
        for done in range(1000):
            front.service.tell(worker_pb2.ItemProgress(item_id=10, done=done, total=1000, maps=[plate]))
        assert len(front.loop._outbox._news) <= 1
        computed.set()
        return [explained(text) for text in inputs]

    front.service.compute = compute
    front.batch(1, "a")
    assert computed.wait(60)
    told = []
    while (frame := front.hear()).WhichOneof("body") == "progress":
        told.append(frame.progress.done)
    assert told == sorted(told)
    assert len(told) < 20
    assert frame.result.item_id == 10
    assert front.hear().done.batch_id == 1


def test_progress_that_fits_no_frame_is_left_out(front: Front, caplog: pytest.LogCaptureFixture) -> None:
    large = v1.Tensor(data=bytes(frames.FRAME_BYTES))

    def compute(inputs: Sequence[str], cancels: Sequence[CancelToken]) -> Sequence[Explained]:
        front.service.tell(worker_pb2.ItemProgress(item_id=10, done=1, total=2, maps=[large]))
        return [explained(text) for text in inputs]

    front.service.compute = compute
    front.batch(1, "a")
    assert front.outcomes(1) == {10: "a"}
