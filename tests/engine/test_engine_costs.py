"""What an input costs by its size: arrays of floats go to the model as large as they are."""

from __future__ import annotations

import asyncio

import pytest
from engine_fakes import FakeClock, FakePool, settle, spec_of

from whylight.engine import Bounds, Engine, Work
from whylight.engine.work import evaluations
from whylight.errors import InvalidInput, RateLimited
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2

MODEL = catalog_pb2.Model(name="m", input_channels=3, input_size=v1.Size(width=200, height=100))


def array(*shape: int, dtype: v1.DataType = v1.DATA_TYPE_FLOAT32) -> v1.Input:
    return v1.Input(tensor=v1.Tensor(dtype=dtype, shape=shape))


@pytest.mark.parametrize(
    ("item", "cost"),
    [
        (v1.Input(image=b"a"), 1),
        (array(3, 100, 200), 1),
        (array(3, 10, 20), 1),
        (array(3, 1000, 2000), 100),
        (array(3, 1000, 2000, dtype=v1.DATA_TYPE_FLOAT16), 100),
        (array(1000, 2000, 3, dtype=v1.DATA_TYPE_UINT8), 1),  # it is resized as a picture is
    ],
)
def test_an_array_of_floats_costs_by_its_size(item: v1.Input, cost: float) -> None:
    assert evaluations(item, MODEL) == cost
    assert evaluations(item, None) == 1


async def test_the_engine_counts_it() -> None:
    class Sized(FakePool):
        def up(self, worker: int = 0) -> None:
            self.listener.worker_up(worker, worker_pb2.Ready(models=[MODEL]))

    pool = Sized()
    engine = Engine(pool, Bounds(max_batch_items=8, max_batch_cost=150, max_queued_cost=250), clock=FakeClock())
    await engine.start()

    def call(number: int) -> asyncio.Task[list[v1.InputResult]]:
        return asyncio.ensure_future(engine.explain(Work(spec_of("grad-cam"), [array(3, 1000, 2000)] * number)))

    with pytest.raises(InvalidInput) as caught:
        await call(3)
    assert caught.value.reason == "REQUEST_TOO_COSTLY"
    fits = call(2)
    await settle()
    assert [len(batch.items) for _, batch in pool.batches] == [1, 1], "two are above the cost of a batch"
    pool.finish()
    pool.finish()
    assert len(await fits) == 2


async def test_work_is_charged_before_it_is_queued_and_given_back_when_it_is_refused_for_another_cause() -> None:
    charged: list[float] = []

    def charge(cost: float) -> None:
        if sum(charged) + cost > 8:
            raise RateLimited("too much", retry_after=1.0)
        charged.append(cost)

    def call(number: int) -> asyncio.Task[list[v1.InputResult]]:
        return asyncio.ensure_future(engine.explain(Work(spec_of("grad-cam"), [v1.Input(image=b"a")] * number)))

    pool = FakePool()
    engine = Engine(pool, Bounds(max_batch_items=2, max_queued_items=4), clock=FakeClock(), charge=charge)
    await engine.start()
    first = call(2)
    await settle()
    with pytest.raises(InvalidInput, match="at most 4"):
        await call(5)
    assert charged == [2, 5, -5]
    with pytest.raises(RateLimited):
        await call(7)
    assert len(pool.batches) == 1
    pool.finish()
    await first
