"""What is newest of a kind: one piece of news for each key, however many are put, and none of what was dropped."""

from __future__ import annotations

import threading

from whylight.latest import Latest


def test_only_the_newest_of_each_key_waits():
    latest: Latest[str, int] = Latest()
    assert [latest.put("a", news) for news in range(500)] == [True] + [False] * 499
    assert latest.put("b", 1)
    assert len(latest) == 2
    assert (latest.take("a"), latest.take("b")) == (499, 1)
    assert latest.take("a") is None
    assert latest.put("a", 500), "what was taken makes room: the key is to be queued again"


def test_what_is_outdated_is_forgotten_though_its_key_is_queued():
    latest: Latest[tuple[int, str], int] = Latest()
    for key in ((1, "a"), (1, "b"), (2, "a")):
        latest.put(key, 0)
    latest.drop(lambda key: key[0] == 1)
    assert (latest.take((1, "a")), latest.take((1, "b")), latest.take((2, "a"))) == (None, None, 0)


def test_a_key_is_queued_once_for_every_time_that_it_is_taken():
    latest: Latest[str, int] = Latest()
    queued: list[bool] = []
    barrier = threading.Barrier(4)

    def put():
        barrier.wait()
        for news in range(1000):
            queued.append(latest.put("a", news))

    threads = [threading.Thread(target=put) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(queued) == 1
    assert latest.take("a") == 999
