"""Answers that are kept: for which questions, for how long, and never for those that are not equal."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from engine_fakes import FakeClock, FakePool, Stage, labels, settle, spec_of
from hypothesis import given
from hypothesis import strategies as st

from whylight.engine import Engine, Work
from whylight.engine.plan import Plan, canonical, plan_key
from whylight.engine.response_cache import Edition, ResponseCache
from whylight.errors import InvalidInput
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2

EDITION = Edition("sha256:1", ("1.0",))


class CataloguedPool(FakePool):
    """Workers whose catalog says what the weights and the methods are."""

    digest = "sha256:1"

    def up(self, worker: int = 0) -> None:
        self.listener.worker_up(
            worker,
            worker_pb2.Ready(
                device="cpu",
                models=[catalog_pb2.Model(name="m", digest=self.digest)],
                methods=[
                    catalog_pb2.Method(name="grad-cam", version="1"),
                    catalog_pb2.Method(name="rise", version="1"),
                ],
            ),
        )


async def keeping(max_bytes: int = 2**20, **pool: object) -> Stage:
    stage = Stage(None, CataloguedPool(1, **pool), FakeClock())
    stage.engine = Engine(
        stage.pool, clock=stage.clock, draw_seed=itertools.count(100).__next__, cache=ResponseCache(max_bytes)
    )
    await stage.engine.start()
    return stage


async def ask(stage: Stage, *names: str, **how: object) -> list[v1.InputResult]:
    """Ask, and let the worker finish whatever it is given."""
    call = stage.call(*names, **how)
    await settle()
    while stage.pool.batches:
        stage.pool.finish()
    return await call


def cached(results: list[v1.InputResult]) -> list[bool]:
    return [result.explained.explanations[0].execution.cached for result in results]


async def test_an_equal_question_is_answered_without_a_worker() -> None:
    s = await keeping()
    first = await ask(s, "a")
    call = s.call("a")
    await settle()
    assert s.sent == []
    (again,) = await call
    assert cached([again]) == [True]
    again.explained.explanations[0].execution.cached = False
    assert [again] == first


async def test_only_the_inputs_that_are_new_go_to_a_worker_and_the_order_stays() -> None:
    s = await keeping()
    await ask(s, "a", "c")
    call = s.call("a", "b", "c", "d")
    await settle()
    assert s.sent == [["b", "d"]]
    s.pool.finish()
    results = await call
    assert labels(results) == ["a", "b", "c", "d"]
    assert cached(results) == [True, False, True, False]


@pytest.mark.parametrize("other", [{"method": "rise"}, {"targets": 1}, {"targets": 2}])
async def test_another_method_or_target_is_another_question(other: dict[str, object]) -> None:
    s = await keeping()
    await ask(s, "a")
    assert cached(await ask(s, "a", **other)) == [False]


async def test_without_a_seed_a_stochastic_answer_is_never_kept() -> None:
    s = await keeping(stochastic=[True])
    assert [(await ask(s, "a"))[0].explained.explanations[0].seed for _ in range(2)] == [100, 101]
    assert s.engine._cache.size == 0


async def test_with_a_seed_it_is_kept_for_that_seed() -> None:
    s = await keeping(stochastic=[True])
    assert cached(await ask(s, "a", seeds=[7])) == [False]
    assert cached(await ask(s, "a", seeds=[7])) == [True]
    assert cached(await ask(s, "a", seeds=[8])) == [False]


async def test_new_weights_give_new_answers() -> None:
    s = await keeping()
    await ask(s, "a")
    s.pool.down()
    s.pool.digest = "sha256:2"
    s.pool.up()
    assert cached(await ask(s, "a")) == [False]


async def test_errors_are_not_kept() -> None:
    s = await keeping()
    call = s.call("a", "b")
    await settle()
    worker, batch = s.pool.batches.pop()
    bad, good = batch.items
    error = v1.Error(code=3, reason="INPUT_INVALID", message="no picture")
    result = worker_pb2.ItemResult(item_id=bad.item_id, result=v1.InputResult(error=error))
    s.pool.listener.worker_said(worker, worker_pb2.WorkerFrame(result=result))
    s.pool.give_result(worker, good)
    s.pool.end(worker, batch)
    await call
    again = s.call("a", "b")
    await settle()
    assert s.sent == [["a"]]
    again.cancel()


async def test_answers_together_are_bounded_and_the_oldest_go_first() -> None:
    s = await keeping()
    (result,) = await ask(s, "a")
    small = await keeping(2 * len(result.SerializeToString()))
    for name in ("a", "b", "a", "c"):
        await ask(small, name)
    assert small.engine._cache.size <= 2 * len(result.SerializeToString())
    assert [cached(await ask(small, name)) for name in ("a", "c", "b")] == [[True], [True], [False]]


async def test_an_answer_larger_than_everything_is_not_kept() -> None:
    s = await keeping(8)
    await ask(s, "a")
    assert cached(await ask(s, "a")) == [False]


async def test_answers_that_are_kept_count_as_answers() -> None:
    s = await keeping()
    (result,) = await ask(s, "a")
    from whylight.engine.work import AnswerRoom

    work = Work(spec_of("grad-cam"), [v1.Input(image=b"a")] * 3, room=AnswerRoom(2 * result.ByteSize()))
    with pytest.raises(InvalidInput) as raised:
        await asyncio.wait_for(s.engine.explain(work), 60)
    assert raised.value.reason == "RESPONSE_TOO_LARGE"


questions = st.tuples(
    st.sampled_from(["m", "n"]),
    st.lists(st.sampled_from(["grad-cam", "rise"]), min_size=1, max_size=2),
    st.integers(0, 1),
    st.integers(0, 1),
    st.binary(max_size=2),
    st.lists(st.integers(0, 2), max_size=2),
    st.sampled_from(["sha256:1", "sha256:2"]),
)


@given(questions, questions)
def test_two_questions_have_one_key_exactly_when_they_are_equal(one: tuple, other: tuple) -> None:
    def key(model: str, methods: list[str], steps: int, seed: int, image: bytes, targets: list[int], digest: str):
        spec = canonical(spec_of(*methods, model=model, steps=float(steps)))
        plan = Plan(plan_key(spec), spec, 1.0, 0.0, tuple(True for _ in methods))
        inputs = [v1.Input(image=image, targets=[v1.Target(class_index=index) for index in targets])]
        return ResponseCache(100).keys(Work(spec, inputs, [seed] * len(methods)), plan, Edition(digest, ("1",)))[0]

    assert (key(*one) == key(*other)) is (one == other)
