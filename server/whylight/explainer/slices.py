"""Advances long work a step at a time, and splits what fails; knows neither synthesis, inspection nor who calls."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Any, TypeAlias, TypeVar

import torch

from whylight.errors import Cancelled, Overloaded, WhylightError
from whylight.explainer.lacking import free_memory, is_out_of_memory
from whylight.explainer.long_plan import LongPlan
from whylight.explainer.plan import method_failed
from whylight.explanation import Explained
from whylight.method import Pause, Progress
from whylight.subject import CancelToken

log = logging.getLogger(__name__)

Outcome: TypeAlias = Explained | WhylightError
Ended: TypeAlias = Sequence[tuple[int, Outcome]]
"""The places of what has come to its end since the last step, and what came of it."""

Slices: TypeAlias = Generator[Ended, None, None]
"""Long work under way. Each step of it is one `next`; to stop it, and free what it holds, close it."""

Last = TypeVar("Last")


def in_parts(
    cancels: Sequence[CancelToken],
    attempt: Callable[[list[int]], Generator[Ended, None, Sequence[Explained]]],
    blame: Callable[[int, BaseException], WhylightError],
    most: int | None = None,
) -> Slices:
    """Do work for each of `cancels`, as many together as is possible, and tell what came of each.

    At most `most` are together, None for all; the next ones begin when those before them have ended.
    When memory runs out, it is begun again in two halves. When it fails, it is begun again one by one, so that only the
    guilty one fails, with what `blame` makes of its exception. What nobody wants any more ends at once.
    """
    most = most or len(cancels)
    waiting = deque(list(range(len(cancels)))[start : start + most] for start in range(0, len(cancels), most or 1))
    while waiting:
        places = waiting.popleft()
        gone = [place for place in places if cancels[place].cancelled]
        if gone:
            yield [(place, Cancelled("the call was cancelled")) for place in gone]
        places = [place for place in places if place not in gone]
        if not places:
            continue
        try:
            made = yield from attempt(places)
        except (Exception, SystemExit) as error:  # a plugin that calls sys.exit fails as others do
            smaller, ended = _after(error, places, cancels, blame)
        else:
            smaller, ended = [], list(zip(places, made, strict=True))
        waiting.extendleft(reversed(smaller))
        yield ended


def advanced(
    plan: LongPlan,
    work: Iterable[Any],
    cancel: CancelToken,
    last: type[Last],
    on_progress: Callable[[Progress], None],
) -> Generator[Ended, None, tuple[Last, float]]:
    """Go through a method's generator, one step at a time.

    Return its result, which is of type `last`, and how many seconds its steps took.

    Other work is done between two steps: so whether gradients are recorded, which belongs to the thread, is put back
    behind each step and put on again before the next.

    Raises:
        Cancelled: nobody waits any more; asked before each step.
        MethodFailed: it gave something else than progress and then a result.
        Exception: whatever the method raises.
    """
    steps: Iterator[Any] = iter(work)
    within = torch.is_grad_enabled()
    busy = 0.0
    try:
        while True:
            cancel.check()
            around = torch.is_grad_enabled()
            torch.set_grad_enabled(within)
            started = time.perf_counter()
            try:
                step = next(steps, None)
            finally:
                within = torch.is_grad_enabled()
                torch.set_grad_enabled(around)
                busy += time.perf_counter() - started
            if isinstance(step, last):
                return step, busy
            if isinstance(step, Pause):
                yield ()
                continue
            if not isinstance(step, Progress):
                what = "ended" if step is None else f"gave {type(step).__name__}"
                raise method_failed(plan.offered, f"{what} before it gave its {last.__name__}")
            if not 0 <= step.step <= step.total or step.total < 1:
                raise method_failed(plan.offered, f"reported step {step.step} of {step.total}")
            on_progress(step)
            yield ()
    finally:
        _close(steps)


def _close(steps: Any) -> None:
    """Let the method's generator unwind and free what it holds; it may not change the thread's mode in doing so."""
    around = torch.is_grad_enabled()
    try:
        if hasattr(steps, "close"):
            steps.close()
    except Exception:
        log.exception("a method failed while it was stopped")
    finally:
        torch.set_grad_enabled(around)


def _after(
    error: BaseException,
    places: list[int],
    cancels: Sequence[CancelToken],
    blame: Callable[[int, BaseException], WhylightError],
) -> tuple[list[list[int]], list[tuple[int, Outcome]]]:
    """Return what is to be begun again in smaller parts, and what has ended."""
    if is_out_of_memory(error):
        error.__traceback__ = None  # with it go the tensors of the failed run
        free_memory()
        log.warning("out of memory with %d pictures; going on with fewer", len(places))
        if len(places) > 1:
            middle = (len(places) + 1) // 2
            return [places[:middle], places[middle:]], []
        lacking = Overloaded("the device has no memory for this", reason="OUT_OF_MEMORY")
        return [], [(places[0], lacking)]
    if isinstance(error, Cancelled) and all(cancels[place].cancelled for place in places):
        return [], [(place, Cancelled(error.message)) for place in places]
    if len(places) > 1:
        return [[place] for place in places], []
    return [], [(places[0], blame(places[0], error))]


def failure_of(plan: LongPlan, error: BaseException) -> WhylightError:
    """Return what a caller is told of a method's exception: its own words if they were meant for callers."""
    if isinstance(error, WhylightError):
        return error
    offered = plan.offered
    log.error("the method %r of plugin %r failed", offered.method.name, offered.plugin, exc_info=error)
    failed = method_failed(offered, "failed")
    failed.__cause__ = error
    return failed
