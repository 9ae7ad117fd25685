"""Streams: answers by id as they come, never too many open, nothing lost and nothing left behind."""

from __future__ import annotations

import asyncio
import inspect
import threading
from contextlib import aclosing, closing

import numpy as np
import pytest

from whylight.client import AsyncClient, Client, Input, Request
from whylight.errors import Cancelled, InternalError, InvalidInput, NotFound, Unavailable
from whylight.settings import Settings
from whylight.target import ClassIndex

PIXELS = np.zeros((4, 4, 3), np.uint8)


class Blocking:
    """Lets one test read the blocking client's streams as the asyncio one's."""

    def __init__(self, client):
        self.client = client

    async def stream(self, requests, **keywords):
        for item in self.client.stream(requests, **keywords):
            yield item

    async def explain_many(self, images, *arguments, **keywords):
        for item in self.client.explain_many(images, *arguments, **keywords):
            yield item


@pytest.fixture(params=["blocking", "asyncio"])
def any_client(request, client, async_client):
    return Blocking(client) if request.param == "blocking" else async_client


def sizes(*lengths):
    return [b"x" * length for length in lengths]


async def collect(answers, names):
    async for name, _ in answers:
        names.append(name)


async def test_answers_are_told_apart_by_id_whatever_their_order(any_client, server):
    server.reverse = True
    requests = [Request(b"xx", id="two"), Request(sizes(1, 3), id="several"), Request(b"xxxx")]
    answers = [item async for item in any_client.stream(requests)]
    assert [name for name, _ in answers] == ["0", "several", "two"]
    by_id = dict(answers)
    assert by_id["two"].explanation.map.item() == 2
    assert [result.explanation.map.item() for result in by_id["several"]] == [1, 3]
    assert by_id["0"].explanation.map.item() == 4


async def test_failed_requests_stand_in_their_place_and_do_not_end_the_stream(any_client):
    requests = [
        Request(b"x", model="missing", id="a"),
        Request("nowhere.png", id="b"),
        Request(b"bad", id="c"),
        Request([b"bad", b"x"], id="d"),
        Request(b"x", id="e"),
    ]
    answers = {name: answer async for name, answer in any_client.stream(requests)}
    assert isinstance(answers["a"], NotFound)
    assert isinstance(answers["b"], InvalidInput)
    assert answers["b"].violations[0].field == "inputs[0].image"
    assert isinstance(answers["c"], InvalidInput)
    assert [type(result).__name__ for result in answers["d"]] == ["InvalidInput", "Explained"]
    assert answers["e"].explanation.map.item() == 1


async def test_empty_stream_is_no_error(any_client):
    assert [item async for item in any_client.stream([])] == []


async def test_many_images(any_client):
    images = [b"x" * (k + 1) for k in range(100)]
    images[40] = b"bad"
    images[41] = Input(b"x" * 42, target=6)
    results = dict([item async for item in any_client.explain_many(images, "xgrad-cam", target=2, max_in_flight=7)])
    assert sorted(results) == list(range(100))
    assert isinstance(results.pop(40), InvalidInput)
    assert all(result.explanation.map.item() == k + 1 for k, result in results.items())
    assert {result.explanation.method for result in results.values()} == {"xgrad-cam"}
    assert results[41].explanation.target == ClassIndex(6)
    assert results[42].explanation.target == ClassIndex(2)


async def test_no_more_are_open_than_allowed_however_slow_the_caller(any_client):
    read = []

    def requests():
        for k in range(20):
            read.append(k)
            yield Request(b"x")

    taken = 0
    async for _ in any_client.stream(requests(), max_in_flight=3):
        taken += 1
        assert len(read) <= taken - 1 + 3
    assert taken == 20


async def test_caller_s_own_exception_comes_after_the_answers_before_it(any_client):
    def requests():
        yield Request(b"x")
        yield Request(b"xx")
        raise LookupError("no more")

    seen = []
    with pytest.raises(LookupError, match="no more"):
        await collect(any_client.stream(requests()), seen)
    assert sorted(seen) == ["0", "1"]


async def test_id_that_is_still_open_is_refused(any_client, server):
    server.reverse = True  # the first is open until the stream ends
    with pytest.raises(InvalidInput, match="still open"):
        await collect(any_client.stream([Request(b"x", id="a"), Request(b"x", id="a")]), [])


async def test_broken_call_raises_after_what_was_answered(any_client, server):
    server.failures = [None, Unavailable("worker lost", reason="WORKER_LOST", retry_after=1.5)]
    seen = []
    with pytest.raises(Unavailable) as caught:
        await collect(any_client.stream([Request(b"x"), Request(b"xx"), Request(b"xxx")]), seen)
    assert seen == ["0"]
    assert (caught.value.reason, caught.value.retry_after) == ("WORKER_LOST", 1.5)


async def test_answer_to_nothing_that_was_asked_is_an_error(any_client, server):
    server.rename = "stranger"
    with pytest.raises(InternalError, match="stranger") as caught:
        await collect(any_client.stream([Request(b"x")]), [])
    assert caught.value.reason == "RESPONSE_INVALID"


def test_leaving_a_stream_takes_back_what_is_open(client, server):
    before = threading.active_count()
    server.hold.clear()
    requests = iter([Request(b"x")] * 10)
    with closing(client.stream(requests, max_in_flight=4)) as answers:
        server.hold.set()
        next(answers)
        server.hold.clear()
    assert server.cancelled.wait(60)
    server.hold.set()
    assert not [thread for thread in threading.enumerate() if thread.name == "whylight-stream"]
    assert threading.active_count() <= before + 16  # the server's pool


async def test_leaving_an_asyncio_stream_takes_back_what_is_open(async_client, server):
    async with aclosing(async_client.stream([Request(b"x")] * 10, max_in_flight=4)) as answers:
        async for _ in answers:
            server.hold.clear()
            break
    assert await asyncio.to_thread(server.cancelled.wait, 60)


async def test_asyncio_stream_of_asynchronous_requests(async_client):
    questions = asyncio.Queue()

    async def requests():
        while (length := await questions.get()) is not None:
            yield Request(b"x" * length)

    questions.put_nowait(1)
    seen = []
    async for _, answer in async_client.stream(requests()):  # each question depends on the answer before
        seen.append(answer.explanation.map.item())
        questions.put_nowait(len(seen) + 1 if len(seen) < 4 else None)
    assert seen == [1, 2, 3, 4]


def test_local_failure_is_told_before_the_next_request_is_read(client):
    told = threading.Event()

    def requests():
        yield Request("nowhere.png", id="bad")
        assert told.wait(60)
        yield Request(b"x", id="good")

    names = []
    for name, _ in client.stream(requests()):
        names.append(name)
        told.set()
    assert names == ["bad", "good"]


async def test_cancelled_task_cancels_its_call(async_client, server):
    server.hold.clear()
    task = asyncio.ensure_future(async_client.explain(PIXELS))
    assert await asyncio.to_thread(server.received.acquire, timeout=60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await asyncio.to_thread(server.cancelled.wait, 60)


def test_closing_the_client_ends_its_streams(client, server):
    server.hold.clear()
    answers = client.stream([Request(b"x")])
    thread = threading.Thread(target=lambda: (server.received.acquire(timeout=60), client.close()))
    thread.start()
    with pytest.raises(Cancelled):
        next(answers)
    thread.join()


async def test_progress_is_told_until_the_answer_and_by_request(any_client, server):
    server.reports = 3
    heard = []
    requests = [
        Request(b"x", "rise", id="a", on_progress=lambda news: heard.append(("a", news)), running_maps=True),
        Request(b"xx", "lime", id="b"),
        Request(b"x", "lime", id="c", on_progress=lambda news: heard.append(("c", news)), progress_interval=0.5),
    ]
    async for name, _ in any_client.stream(requests):
        heard.append((name, None))
    for name in "abc":
        of_it = [news for whose, news in heard if whose == name]
        assert of_it.pop() is None, "the answer comes last"
        assert [news.done for news in of_it] == sorted({news.done for news in of_it})
        assert all((news.input_index, news.total) == (0, 3) for news in of_it)
    told = [news for whose, news in heard if whose == "a" and news]
    assert {news.method for news in told} <= {"rise"}
    assert all(news.maps[0].tolist() == [[news.done]] for news in told)
    assert [spec.running_maps for spec in server.specs] == [True, False]
    assert [spec.min_interval.ToTimedelta().total_seconds() for spec in server.specs] == [0.0, 0.5]
    assert not server.specs[0].HasField("min_interval")


async def test_every_progress_reaches_a_caller_who_has_time(any_client, server):
    """The answer is held back until all of the progress has been told."""
    server.reports = 5
    server.hold.clear()
    heard = []

    def listen(news):
        heard.append(news.done)
        if news.done == 5:
            server.hold.set()

    async for _ in any_client.stream([Request(b"x", on_progress=listen)]):
        pass
    assert heard[-1] == 5
    assert heard == sorted(heard)


async def test_a_slow_caller_hears_of_each_image_forward_only_and_in_the_end_its_answer(any_client, server):
    """How much of the progress is left out depends on when it arrives; tests/engine/test_latest.py is about what is."""
    server.reports = 500
    first, rest = asyncio.Event(), []
    requests = [Request(b"x", id="first"), Request(b"x", id="second", on_progress=lambda news: rest.append(news.done))]
    answers = any_client.stream(requests, max_in_flight=2)
    async with aclosing(answers) if hasattr(answers, "aclose") else closing(answers):
        async for name, _ in answers:
            if name == "first":
                # Until the second is answered as well, nobody takes what is told of it.
                await asyncio.to_thread(server.answered.acquire)
                await asyncio.to_thread(server.answered.acquire)
                first.set()
    assert first.is_set()
    assert rest == sorted(set(rest))


async def test_many_images_are_told_apart_in_their_progress(any_client, server):
    server.reports = 2
    heard = []
    results = any_client.explain_many(sizes(1, 2, 3), on_progress=lambda news: heard.append(news.input_index))
    assert sorted([index async for index, _ in results]) == [0, 1, 2]
    assert set(heard) <= {0, 1, 2}


async def test_an_exception_of_the_listener_is_the_callers_own_and_ends_the_call(any_client, server):
    server.reports = 1
    server.hold.clear()

    def fail(news):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        async for _ in any_client.stream([Request(b"x", on_progress=fail)]):
            pass
    assert server.cancelled.wait(60)


@pytest.mark.parametrize("interval", [-1.0, float("nan"), 1e300])
async def test_an_interval_that_is_none_is_refused_here(any_client, server, interval):
    requests = [Request(b"x", on_progress=lambda news: None, progress_interval=interval)]
    (answer,) = [answer async for _, answer in any_client.stream(requests)]
    assert isinstance(answer, InvalidInput)
    assert answer.violations[0].field == "progress.min_interval"
    assert server.requests == []


@pytest.mark.parametrize("call", [Client.stream, Client.explain_many, AsyncClient.stream, AsyncClient.explain_many])
def test_as_much_is_open_as_a_server_works_on_unless_it_is_said(call):
    assert inspect.signature(call).parameters["max_in_flight"].default == Settings().server.stream_window
