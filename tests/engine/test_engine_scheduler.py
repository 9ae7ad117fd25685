"""The scheduler's promises, one by one, with the time in our hands."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from whylight.engine.bounds import Bounds
from whylight.engine.scheduler import CloseReason, Scheduler, Slot
from whylight.engine.ticket import Ticket
from whylight.errors import DeadlineExceeded, InvalidInput, Overloaded
from whylight.priority import Priority


def busy(queue: object) -> Slot:
    """A worker that computes, before the half of its batch is done."""
    return Slot(0, due=5.0)


def tickets(count: int, queue: str = "a", *, first: int = 1, cost: float = 1.0, **rest: Any) -> list[Ticket]:
    return [Ticket(first + place, queue, cost, **rest) for place in range(count)]


def ids(batch) -> list[int]:
    return [ticket.id for ticket in batch.tickets]


def serve(scheduler: Scheduler, now: float = 0.0):
    """Take a batch and have it done at once, at a cost of one per second."""
    batch = scheduler.next_batch(now)
    scheduler.finished(batch, batch.cost)
    return batch


def measure(scheduler: Scheduler, queue: str, *, seconds: float = 1.0, batches: int = 3) -> None:
    """Have batches done at so many seconds for each evaluation."""
    for n in range(batches):
        scheduler.admit([Ticket(10**9 + n, queue, 1.0)], 0.0)
        scheduler.finished(scheduler.next_batch(0.0), seconds)


def test_with_no_delay_a_batch_is_what_there_is_when_a_worker_is_free() -> None:
    scheduler = Scheduler(Bounds())
    assert scheduler.next_batch(0.0) is None
    scheduler.admit(tickets(3), 0.0)
    batch = scheduler.next_batch(0.0)
    assert ids(batch) == [1, 2, 3]
    assert batch.reason is CloseReason.WORKER_FREE


def test_a_large_request_is_split_and_the_rest_keeps_its_order() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=4))
    scheduler.admit(tickets(10), 0.0)
    batches = [scheduler.next_batch(0.0) for _ in range(3)]
    assert [ids(batch) for batch in batches] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]
    assert [batch.reason for batch in batches] == [CloseReason.FULL, CloseReason.FULL, CloseReason.WORKER_FREE]


def test_a_batch_is_bounded_by_cost_and_by_bytes() -> None:
    scheduler = Scheduler(Bounds(max_batch_cost=10.0, max_batch_bytes=100))
    scheduler.admit(tickets(3, "costly", cost=4.0), 0.0)
    scheduler.admit(tickets(3, "heavy", first=4, size=40), 0.0)
    assert [ids(scheduler.next_batch(0.0)) for _ in range(4)] == [[1, 2], [4, 5], [3], [6]]


def test_an_item_above_the_bounds_of_a_batch_goes_alone() -> None:
    scheduler = Scheduler(Bounds(max_batch_cost=10.0))
    scheduler.admit([Ticket(1, "a", 1.0), Ticket(2, "a", 50.0), Ticket(3, "a", 1.0)], 0.0)
    assert [ids(scheduler.next_batch(0.0)) for _ in range(3)] == [[1], [2], [3]]


def test_a_batch_is_never_mixed() -> None:
    scheduler = Scheduler(Bounds())
    scheduler.admit([Ticket(id, "ab"[id % 2], 1.0) for id in range(6)], 0.0)
    assert [ids(scheduler.next_batch(0.0)) for _ in range(2)] == [[0, 2, 4], [1, 3, 5]]


def test_with_a_delay_a_batch_waits_for_it_from_its_first_item_or_until_it_is_full() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=3, max_delay=0.5))
    scheduler.admit(tickets(1), 10.0)
    scheduler.admit(tickets(1, first=2), 10.3)
    assert scheduler.next_batch(10.4) is None
    assert scheduler.next_event(10.4) == 10.5
    late = scheduler.next_batch(10.5)
    assert (ids(late), late.reason) == ([1, 2], CloseReason.MAX_DELAY)
    scheduler.admit(tickets(3, first=3), 11.0)
    full = scheduler.next_batch(11.0)
    assert (ids(full), full.reason) == ([3, 4, 5], CloseReason.FULL)


def test_draining_waits_for_no_more() -> None:
    scheduler = Scheduler(Bounds(max_delay=0.5))
    scheduler.admit(tickets(2), 0.0)
    scheduler.draining = True
    assert scheduler.next_batch(0.0).reason is CloseReason.DRAINING


def test_ahead_of_a_busy_worker_only_full_batches_leave() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=2))
    scheduler.admit(tickets(1), 0.0)
    assert scheduler.next_batch(0.0, busy) is None
    assert scheduler.held_until == 5.0
    scheduler.admit(tickets(1, first=2), 0.0)
    assert ids(scheduler.next_batch(0.0, busy)) == [1, 2]


def test_equal_queues_take_turns() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=2))
    for place, queue in enumerate("abc"):
        scheduler.admit(tickets(4, queue, first=10 * place), 0.0)
    assert [scheduler.next_batch(0.0).queue for _ in range(6)] == ["a", "b", "c", "a", "b", "c"]


@settings(deadline=None)
@given(
    costs=st.lists(st.sampled_from([1.0, 2.0, 7.0, 30.0, 100.0]), min_size=2, max_size=5),
    turns=st.integers(1, 300),
)
def test_backlogged_queues_are_served_the_same_cost(costs: list[float], turns: int) -> None:
    bounds = Bounds(max_batch_items=8, max_batch_cost=64.0, max_queued_items=20000, max_queued_cost=10e6)
    scheduler = Scheduler(bounds)
    for queue, cost in enumerate(costs):
        scheduler.admit(tickets(2400, str(queue), first=10000 * queue, cost=cost), 0.0)
    served = dict.fromkeys(map(str, range(len(costs))), 0.0)
    for _ in range(turns):
        batch = scheduler.next_batch(0.0)
        served[batch.queue] += batch.cost
    assert max(served.values()) - min(served.values()) <= 8 + max(64.0, *costs)


def test_a_queue_that_always_runs_empty_gains_nothing_by_it() -> None:
    """One expensive item at a time, beside a crowd of cheap ones: alternating would give it 500 of every 508."""
    scheduler = Scheduler(Bounds(max_batch_items=8, max_queued_items=20000, max_queued_cost=1e6))
    scheduler.admit(tickets(10000, "cheap"), 0.0)
    scheduler.admit([Ticket(100000, "costly", 500.0)], 0.0)
    served = {"cheap": 0.0, "costly": 0.0}
    while sum(served.values()) < 10000:
        batch = serve(scheduler)
        served[batch.queue] += batch.cost
        if batch.queue == "costly":
            scheduler.admit([Ticket(ids(batch)[0] + 1, "costly", 500.0)], 0.0)
    assert served["costly"] <= served["cheap"] + 508


def test_newcomers_do_not_starve_a_queue_in_debt() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=8))
    scheduler.admit([Ticket(1, "debtor", 80.0), Ticket(2, "debtor", 1.0)], 0.0)
    assert ids(scheduler.next_batch(0.0)) == [1, 2]
    scheduler.admit([Ticket(3, "debtor", 1.0)], 0.0)
    for newcomer in range(4, 100):  # each in a queue of its own, before the debtor's turn has come
        scheduler.admit([Ticket(newcomer, newcomer, 1.0)], 0.0)
        if 3 in ids(scheduler.next_batch(0.0)):
            break
    assert newcomer <= 4 + math.ceil(81 / 8)


def test_a_debt_outlives_an_empty_queue_while_the_batch_runs() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=8))
    scheduler.admit([Ticket(1, "a", 500.0)], 0.0)
    assert ids(scheduler.next_batch(0.0)) == [1]
    scheduler.admit([Ticket(2, "a", 500.0), Ticket(3, "b", 1.0)], 0.0)
    assert ids(scheduler.next_batch(0.0)) == [3]


def test_who_could_not_be_served_saves_no_credit_up() -> None:
    """While the other has no worker, many rounds pass for the debtor; the other has not earned all of them after it."""
    scheduler = Scheduler(Bounds(max_batch_items=2))
    scheduler.admit([Ticket(1, "debtor", 99.0), *tickets(1, "other", first=1000)], 0.0)
    assert ids(scheduler.next_batch(0.0)) == [1]
    scheduler.admit(tickets(30, "debtor", first=2), 0.0)
    assert scheduler.next_batch(0.0, {"debtor": Slot(0, -math.inf)}.get).queue == "debtor"
    scheduler.admit(tickets(30, "other", first=1001), 0.0)
    order = [scheduler.next_batch(0.0).queue for _ in range(12)]
    assert order.count("debtor") >= 5


@pytest.mark.parametrize("lost", [False, True])
def test_debts_are_forgotten_when_nothing_is_left_to_do(lost: bool) -> None:
    scheduler = Scheduler(Bounds(max_batch_items=8))
    scheduler.admit([Ticket(1, "a", 500.0)], 0.0)
    batch = scheduler.next_batch(0.0)
    if lost:
        scheduler.given_up()
    else:
        scheduler.finished(batch, 1.0)
    scheduler.admit([Ticket(2, "a", 500.0), Ticket(3, "b", 1.0)], 0.0)
    assert ids(scheduler.next_batch(0.0)) == [2]


@pytest.mark.parametrize(
    "bounds",
    [
        Bounds(max_batch_items=4, max_queued_items=4),
        Bounds(max_batch_cost=4.0, max_queued_cost=4.0),
        Bounds(max_batch_bytes=40, max_queued_bytes=40),
    ],
)
def test_a_full_queue_takes_all_of_a_call_or_nothing_and_says_when_to_come_again(bounds: Bounds) -> None:
    scheduler = Scheduler(bounds)
    scheduler.throughput.count(cost=100.0, seconds=50.0)
    scheduler.admit(tickets(3, size=10), 0.0)
    with pytest.raises(Overloaded) as caught:
        scheduler.admit(tickets(3, first=4, size=10), 0.0)
    assert caught.value.reason == "QUEUE_FULL"
    # Two of four places have to become free: half of what waits, which is 3, at a pace of 2 a second.
    assert caught.value.retry_after == pytest.approx(0.75)
    assert len(scheduler) == 3
    scheduler.admit(tickets(1, first=7, size=10), 0.0)
    assert ids(scheduler.next_batch(0.0)) == [1, 2, 3, 7]


def test_the_wait_is_shorter_with_more_workers_and_has_a_guess_before_anything_was_measured() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=4, max_queued_items=4))
    scheduler.admit(tickets(4), 0.0)
    with pytest.raises(Overloaded) as caught:
        scheduler.admit(tickets(4, first=5), 0.0)
    assert caught.value.retry_after == 1.0
    scheduler.throughput.count(cost=1.0, seconds=1.0)
    scheduler.throughput.workers = 2
    with pytest.raises(Overloaded) as caught:
        scheduler.admit(tickets(4, first=5), 0.0)
    assert caught.value.retry_after == pytest.approx(2.0)


def test_what_never_fits_is_not_told_to_come_again() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=4, max_queued_items=4))
    with pytest.raises(InvalidInput) as caught:
        scheduler.admit(tickets(5), 0.0)
    assert caught.value.reason == "REQUEST_TOO_COSTLY"
    assert caught.value.retry_after is None


def test_cancelled_items_make_room_at_once() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=4, max_queued_items=4))
    scheduler.admit(tickets(4), 0.0)
    assert [ticket.id for ticket in scheduler.cancel([2, 3, 99])] == [2, 3]
    scheduler.admit(tickets(2, first=5), 0.0)
    assert ids(scheduler.next_batch(0.0)) == [1, 4, 5, 6]


def test_expiry_is_by_absolute_deadline_and_needs_no_dequeue() -> None:
    scheduler = Scheduler(Bounds())
    scheduler.admit([Ticket(1, "a", 1.0, deadline=5.0), Ticket(2, "a", 1.0, deadline=3.0), Ticket(3, "a", 1.0)], 0.0)
    assert scheduler.next_event(0.0) == 3.0
    assert [ticket.id for ticket in scheduler.expire(2.999)] == []
    assert [ticket.id for ticket in scheduler.expire(3.0)] == [2]
    assert scheduler.next_event(3.0) == 5.0
    assert ids(scheduler.next_batch(4.0)) == [1, 3]
    assert scheduler.next_event(4.0) == math.inf
    assert scheduler.expire(100.0) == []


def test_a_deadline_that_cannot_be_met_is_told_at_once() -> None:
    scheduler = Scheduler(Bounds())
    with pytest.raises(DeadlineExceeded):
        scheduler.admit(tickets(1, deadline=1.0), now=1.0)
    measure(scheduler, "a")
    scheduler.admit(tickets(100), 0.0)
    with pytest.raises(DeadlineExceeded, match="cannot be met") as caught:
        scheduler.admit(tickets(1, first=101, deadline=50.0), 0.0)
    assert caught.value.reason == "DEADLINE_CANNOT_BE_MET"
    assert caught.value.metadata == {"expected_wait_seconds": "101.000"}
    scheduler.admit(tickets(1, first=102, deadline=51.0), 0.0)
    scheduler.admit(tickets(1, "other", first=103, deadline=1.0), 0.0)  # nobody knows how long that takes


def test_others_count_in_the_wait_with_no_more_than_they_are_served_before() -> None:
    """A hundred wait, but they are another caller's: the newcomer's one is served second."""
    scheduler = Scheduler(Bounds())
    measure(scheduler, "a")
    scheduler.admit(tickets(100, caller="they"), 0.0)
    scheduler.admit(tickets(1, first=101, caller="me", deadline=1.0), 0.0)
    with pytest.raises(DeadlineExceeded):
        scheduler.admit(tickets(10, first=102, caller="you", deadline=9.0), 0.0)
    scheduler.throughput.workers = 2
    scheduler.admit(tickets(10, first=112, caller="you", deadline=9.0), 0.0)


def test_only_the_workers_that_have_a_model_count_in_the_wait_for_it() -> None:
    """A second a piece, three workers: "some" may go to the first alone, and "all" to each."""
    servers = {"some": {0}, "all": {0, 1, 2}}
    scheduler = Scheduler(Bounds(), servers.__getitem__)
    scheduler.throughput.workers = 3
    measure(scheduler, "some")
    measure(scheduler, "all")
    scheduler.admit(tickets(6, "all", first=101, caller="they"), 0.0)
    with pytest.raises(DeadlineExceeded) as caught:
        scheduler.admit(tickets(9, "some", first=201, caller="me", deadline=4.0), 0.0)
    assert caught.value.metadata == {"expected_wait_seconds": "9.000"}, "what others can do does not wait for the first"
    scheduler.admit(tickets(9, "all", first=301, caller="me", deadline=4.0), 0.0)
    servers["some"] = {0, 1}
    scheduler.admit(tickets(9, "some", first=401, caller="you", deadline=4.0), 0.0)
    servers["some"] = set()  # its worker is being started again: nobody knows how many there will be
    scheduler.admit(tickets(9, "some", first=501, caller="thou", deadline=6.0), 0.0)


def test_a_pace_is_relied_on_after_some_batches_and_an_idle_server_always_tries() -> None:
    """What was measured may be wrong, as that of a first batch is; who refuses everything would never find out."""
    scheduler = Scheduler(Bounds())
    measure(scheduler, "a", seconds=1000.0, batches=2)
    scheduler.admit(tickets(1, first=1, caller="me"), 0.0)
    scheduler.admit(tickets(1, first=2, caller="you", deadline=1.0), 0.0)  # two batches are too few
    while len(scheduler):
        batch = scheduler.next_batch(0.0)
        scheduler.finished(batch, 1000.0)
    scheduler.admit(tickets(1, first=3, caller="me", deadline=1.0), 0.0)
    with pytest.raises(DeadlineExceeded):
        scheduler.admit(tickets(1, first=4, caller="you", deadline=1.0), 0.0)


@settings(deadline=None)
@given(
    cost=st.floats(0.5, 300.0),
    pace=st.floats(0.01, 100.0),
    slack=st.floats(0.0, 10.0),
    waiting=st.integers(0, 40),
    others=st.integers(1, 5),
)
def test_what_would_be_in_time_behind_all_that_waits_is_never_refused(
    cost: float, pace: float, slack: float, waiting: int, others: int
) -> None:
    scheduler = Scheduler(Bounds())
    measure(scheduler, "a", seconds=1.0 / pace)
    for id in range(waiting):
        scheduler.admit([Ticket(id, "a", 3.0, caller=id % others, call=id)], 0.0)
    deadline = (waiting * 3.0 + cost) / pace * 1.0001 + slack
    scheduler.admit([Ticket(1000, "a", cost, deadline=deadline, caller="me", call="mine")], 0.0)


def test_one_caller_with_thousands_of_items_starves_nobody_of_the_same_plan() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=32, max_queued_items=10000))
    scheduler.admit([Ticket(id, "a", 1.0, caller="crowd", call=id) for id in range(4096)], 0.0)
    scheduler.next_batch(0.0)
    scheduler.admit([Ticket(5000, "a", 1.0, caller="one", call="c")], 0.0)
    assert 5000 in ids(scheduler.next_batch(0.0)), "it shares the very next batch"
    scheduler.admit([Ticket(6000 + n, "a", 1.0, caller=f"small {n}", call=n) for n in range(40)], 0.0)
    served = ids(scheduler.next_batch(0.0)) + ids(scheduler.next_batch(0.0))
    assert {6000 + n for n in range(40)} < set(served), "forty more, in two batches of 32"


def test_one_caller_with_many_plans_has_no_more_than_another_with_one() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=8, max_queued_items=10000))
    for plan in range(20):
        scheduler.admit(tickets(80, f"plan {plan}", first=1000 * plan, caller="many"), 0.0)
    scheduler.admit(tickets(800, "one", first=100000, caller="one"), 0.0)
    served = {"many": 0, "one": 0}
    for _ in range(40):
        for ticket in scheduler.next_batch(0.0).tickets:
            served[ticket.caller] += 1
    assert abs(served["many"] - served["one"]) <= 16


def test_a_caller_of_dear_items_shares_a_batch_by_cost() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=32, max_batch_cost=64.0, max_queued_cost=1e6))
    scheduler.admit(tickets(200, cost=16.0, caller="dear"), 0.0)
    scheduler.admit(tickets(1000, cost=1.0, first=1000, caller="cheap"), 0.0)
    served = {"dear": 0.0, "cheap": 0.0}
    for _ in range(20):
        for ticket in scheduler.next_batch(0.0).tickets:
            served[ticket.caller] += ticket.cost
    assert abs(served["dear"] - served["cheap"]) <= 64.0 + 32.0


def test_the_calls_of_one_caller_take_turns() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=4))
    scheduler.admit(tickets(256, call="large"), 0.0)
    scheduler.admit(tickets(1, first=1000, call="small"), 0.0)
    assert 1000 in ids(scheduler.next_batch(0.0))


def test_what_is_not_full_has_its_turn_beside_what_always_is() -> None:
    """Full batches may leave before the half of the running one is done; they must not always be the first."""
    scheduler = Scheduler(Bounds(max_batch_items=4, max_queued_items=10000))
    scheduler.admit(tickets(400, "crowd", caller="crowd"), 0.0)
    assert scheduler.next_batch(0.0, busy).queue == "crowd"
    scheduler.admit(tickets(1, "one", first=1000, caller="one"), 0.0)
    assert scheduler.next_batch(1.0, busy).queue == "crowd", "newcomers have no credit yet"
    assert scheduler.next_batch(2.0, busy) is None
    assert scheduler.held_until == 5.0, "its place is kept until then"
    assert scheduler.next_batch(5.0, busy).queue == "one"


def test_what_is_interactive_goes_before_bulk_work_which_has_its_share() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=8, bulk_share=0.2, max_queued_items=100000))
    scheduler.admit(tickets(4000, "a", first=10000, priority=Priority.BULK), 0.0)
    scheduler.admit(tickets(4000, "a"), 0.0)
    order = [scheduler.next_batch(0.0).tickets[0].priority for _ in range(100)]
    assert order[0] is Priority.INTERACTIVE
    assert order.count(Priority.BULK) == 20
    gaps = [place for place, priority in enumerate(order) if priority is Priority.BULK]
    assert max(later - earlier for earlier, later in itertools.pairwise(gaps)) == 5


def test_bulk_work_has_all_that_nobody_else_wants_and_owes_nothing_for_it() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=8, bulk_share=0.2, max_queued_items=100000))
    scheduler.admit(tickets(400, "a", first=10000, priority=Priority.BULK), 0.0)
    assert {scheduler.next_batch(0.0).tickets[0].priority for _ in range(20)} == {Priority.BULK}
    scheduler.admit(tickets(80, "a"), 0.0)
    order = [scheduler.next_batch(0.0).tickets[0].priority for _ in range(10)]
    assert order[0] is Priority.INTERACTIVE
    assert order.count(Priority.BULK) == 2


def test_bulk_work_takes_no_place_that_is_kept_for_what_is_interactive() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=4))
    scheduler.admit(tickets(40, "bulk", first=100, priority=Priority.BULK), 0.0)
    scheduler.admit(tickets(1, "one"), 0.0)
    assert scheduler.next_batch(0.0, busy) is None
    assert scheduler.held_until == 5.0
    assert scheduler.next_batch(5.0, busy).queue == "one"


def test_a_place_is_kept_at_one_worker_only() -> None:
    scheduler = Scheduler(Bounds(max_batch_items=4))
    scheduler.admit(tickets(1, "one"), 0.0)
    scheduler.admit(tickets(1, "other", first=10), 0.0)
    rooms = {"one": Slot(0, due=5.0), "other": Slot(1, due=-math.inf)}
    batch = scheduler.next_batch(0.0, rooms.__getitem__)
    assert (batch.queue, batch.worker) == ("other", 1)
    assert scheduler.next_batch(0.0, rooms.__getitem__) is None
    assert scheduler.held_until == 5.0


def test_a_call_above_its_own_bound_is_refused_with_the_path_of_what_makes_it_dear() -> None:
    scheduler = Scheduler(Bounds(max_call_cost=100.0))
    for costs, field in (([101.0], "methods"), ([51.0, 51.0], "inputs")):
        with pytest.raises(InvalidInput) as caught:
            scheduler.admit([Ticket(id, "a", cost) for id, cost in enumerate(costs)], 0.0)
        assert (caught.value.reason, caught.value.violations[0].field) == ("REQUEST_TOO_COSTLY", field)
    scheduler.admit(tickets(100, cost=1.0), 0.0)


def test_a_server_that_is_never_idle_forgets_callers_that_paid() -> None:
    """Every connection may be a caller: what is known of them must not grow for ever."""
    scheduler = Scheduler(Bounds(max_batch_items=4))
    scheduler.admit(tickets(4, "a", caller="always"), 0.0)
    for n in range(500):
        scheduler.admit([Ticket(1000 + n, n % 7, 10.0, caller=f"caller {n}")], 0.0)
        scheduler.admit(tickets(4, "a", first=10**6 + 4 * n, caller="always"), 0.0)
        for _ in range(2):
            serve(scheduler)
    level = scheduler._levels[Priority.INTERACTIVE]
    assert len(level._callers) == len(level._lines_of) <= 30


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_batch_items": 0},
        {"max_batch_cost": math.inf},
        {"max_batch_items": 10, "max_queued_items": 9},
        {"max_queued_cost": 1.0},
        {"max_batch_bytes": 2**30},
        {"max_delay": -1.0},
        {"max_delay": math.nan},
    ],
)
def test_bounds_that_do_not_fit_together_are_refused_at_start(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="max_"):
        Bounds(**wrong)


def test_the_turn_among_many_callers_of_many_plans_is_found_by_looking_at_each_once() -> None:
    looks = 0

    class Caller(str):
        def __hash__(self) -> int:
            nonlocal looks
            looks += 1
            return super().__hash__()

    count = 300
    scheduler = Scheduler(Bounds())
    for n in range(count):
        scheduler.admit(tickets(1, f"plan {n}", first=n + 1, caller=Caller(n)), 0.0)
    looks = 0
    assert ids(serve(scheduler)) == [1]
    assert looks < 20 * count, "not each caller in each line"
