"""How much a caller may ask for: the bucket by itself, and each caller by its own."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from whylight.errors import RateLimited
from whylight.security import Access, Caller, Rates, Scope, set_caller
from whylight.security.new_token import new_token
from whylight.security.rates import Bucket


@given(
    st.lists(st.tuples(st.floats(0, 3), st.floats(0.1, 20)), max_size=60),
    st.floats(0.1, 50),
    st.floats(1, 20),
)
def test_nobody_gets_more_than_the_rate_and_what_had_gathered(asked, rate, capacity):
    bucket, now, given_out, largest = Bucket(), 0.0, 0.0, 0.0
    for pause, amount in asked:
        now += pause
        if bucket.take(amount, rate=rate, capacity=capacity, least=1.0, now=now) == 0:
            given_out += amount
            largest = max(largest, amount)
        assert given_out <= capacity + rate * now + largest + 1e-6


@given(st.floats(0.1, 50), st.floats(1, 20), st.floats(0.1, 100))
def test_the_wait_that_is_told_is_enough_and_no_longer_than_needed(rate, capacity, amount):
    bucket = Bucket()
    take = {"rate": rate, "capacity": capacity, "least": 1.0}
    now = 0.0
    while (wait := bucket.take(amount, now=now, **take)) == 0:
        pass
    assert bucket.take(amount, now=now + wait * 0.99, **take) > 0
    assert bucket.take(amount, now=now + wait * (1 + 1e-9) + 1e-9, **take) == 0


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_each_caller_has_its_own(tmp_path):
    path = tmp_path / "tokens.toml"
    few, many = new_token("few", ["explain"], calls_per_second=2), new_token("many", ["explain"])
    path.write_text(few.lines + many.lines)
    path.chmod(0o600)
    timer = Clock()
    access = Access(path, rates=Rates(calls_per_second=5), burst_seconds=1, timer=timer)
    for token, burst in ((few, 2), (many, 5)):
        set_caller(access.check(token.token, Scope.EXPLAIN))
        for _ in range(burst):
            access.charge_call()
        with pytest.raises(RateLimited) as caught:
            access.charge_call()
        assert caught.value.retry_after == pytest.approx(1 / burst)
        assert caught.value.metadata["rate"] == str(burst)
    timer.now += 0.5
    set_caller(access.check(few.token, Scope.EXPLAIN))
    access.charge_call()
    with pytest.raises(RateLimited):
        access.charge_call()


def test_a_large_call_is_let_in_and_paid_for_afterwards():
    timer = Clock()
    access = Access(rates=Rates(evaluations_per_second=10), burst_seconds=2, timer=timer)
    set_caller(access.check(None, Scope.EXPLAIN))
    access.charge_call()
    access.charge_evaluations(220)
    with pytest.raises(RateLimited) as caught:
        access.charge_evaluations(1)
    assert caught.value.retry_after == pytest.approx(20)
    timer.now += 20.1
    access.charge_evaluations(1)


def test_what_was_refused_for_another_cause_is_given_back():
    access = Access(rates=Rates(evaluations_per_second=10), burst_seconds=1, timer=Clock())
    set_caller(access.check(None, Scope.EXPLAIN))
    for _ in range(5):
        access.charge_evaluations(100)
        access.charge_evaluations(-100)
    access.charge_evaluations(100)
    with pytest.raises(RateLimited):
        access.charge_evaluations(1)


def test_without_rates_nothing_is_counted():
    access = Access()
    set_caller(Caller("a", frozenset()))
    for _ in range(1000):
        access.charge_call()
        access.charge_evaluations(1e9)
