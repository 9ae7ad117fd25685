"""What waits at one priority, fair between callers and between the kinds of work of each; knows no bounds of queues."""

from __future__ import annotations

from collections.abc import Callable, Hashable

from whylight.engine.line import Line
from whylight.engine.ticket import Ticket
from whylight.engine.turns import Turns


class Level:
    """Lines of items and whose turn it is.

    Callers take turns by the cost of what they are served, and the lines that one caller has items in take turns too. A
    batch begins with an item of the caller and the line whose turn it is; who else has items in that line shares it,
    an item after the other by turns, and pays for their own. So a batch is as full as if there was but one caller, and
    nobody's many calls, nor many kinds of work, take more than a share of their own.
    """

    def __init__(self, round_credit: float) -> None:
        self._round_credit = round_credit
        self._callers: Turns[Hashable] = Turns(round_credit, self._forget_caller)
        self._lines_of: dict[Hashable, Turns[Hashable]] = {}
        self.lines: dict[Hashable, Line] = {}

    def add(self, ticket: Ticket, now: float) -> None:
        """Put an item into its line."""
        self._callers.join(ticket.caller)
        self._lines_of.setdefault(ticket.caller, Turns(self._round_credit)).join(ticket.queue)
        self.lines.setdefault(ticket.queue, Line()).add(ticket, now)

    def remove(self, key: Hashable, id: int) -> Ticket:
        """Take an item out that is not served."""
        ticket = self.lines[key].remove(id)
        self._left(ticket)
        return ticket

    def next(self, ready: Callable[[Hashable], bool]) -> tuple[Hashable, Hashable] | None:
        """Return the caller and the line whose turn it is, among the lines that `ready` is true of."""
        lines = {key for key in self.lines if ready(key)}
        if not lines:
            return None
        # One look at each line, and not one for each caller: thousands of both would hold up everybody for seconds.
        callers = {one for key in lines for one in self.lines[key].callers}
        caller = self._callers.next(callers.__contains__)
        assert caller is not None, "every item that waits has a caller"
        key = self._lines_of[caller].next(lambda one: one in lines and caller in self.lines[one])
        assert key is not None
        return caller, key

    def form(
        self, caller: Hashable, key: Hashable, most: int, fits: Callable[[list[Ticket], Ticket], bool]
    ) -> list[Ticket]:
        """Take a batch out of a line, beginning with a caller's item: `most` items, or as many as fit."""
        line = self.lines[key]
        taken: list[Ticket] = []
        whose: Hashable | None = caller
        while len(line) and len(taken) < most:
            if taken:
                whose = self._callers.next(line.__contains__)
            ticket = line.first(whose)
            if taken and not fits(taken, ticket):
                break
            taken.append(ticket)
            line.take(ticket)
            self._callers.charge(whose, ticket.cost)
            self._lines_of[whose].charge(key, ticket.cost)
            self._left(ticket)
        return taken

    def clear(self) -> None:
        """Forget all debts; nothing may wait."""
        self._callers.clear()
        self._lines_of.clear()

    def _left(self, ticket: Ticket) -> None:
        line = self.lines[ticket.queue]
        if ticket.caller in line:
            return
        self._lines_of[ticket.caller].leave(ticket.queue)
        if not any(ticket.caller in self.lines[key] for key in self._lines_of[ticket.caller] if key in self.lines):
            self._callers.leave(ticket.caller)
        if not len(line):
            del self.lines[ticket.queue]

    def _forget_caller(self, caller: Hashable) -> None:
        del self._lines_of[caller]
