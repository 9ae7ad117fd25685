"""Items of one kind that wait, by who called for them; knows not whose turn it is."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterable

from whylight.engine.ticket import Ticket


class Line:
    """Items that may share a batch, each at its caller.

    The calls of one caller take turns, an item each, so that a small call does not wait for all of a large one that
    came before it; the items of a call stay in their order.
    """

    def __init__(self) -> None:
        self._arrivals: OrderedDict[int, float] = OrderedDict()
        self._tickets: dict[int, Ticket] = {}
        self._calls: dict[Hashable, OrderedDict[Hashable, OrderedDict[int, Ticket]]] = {}
        self.costs: dict[Hashable, float] = {}
        """What waits of each caller, in model evaluations."""
        self.cost = 0.0
        self.size = 0

    def __len__(self) -> int:
        return len(self._tickets)

    def __contains__(self, caller: Hashable) -> bool:
        """Whether something of a caller waits here."""
        return caller in self._calls

    @property
    def callers(self) -> Iterable[Hashable]:
        """Whose items wait here."""
        return self._calls

    @property
    def oldest(self) -> float:
        """When the item came that has waited longest."""
        return next(iter(self._arrivals.values()))

    def add(self, ticket: Ticket, now: float) -> None:
        """Put an item behind those of its call."""
        calls = self._calls.setdefault(ticket.caller, OrderedDict())
        calls.setdefault(ticket.call, OrderedDict())[ticket.id] = ticket
        self._tickets[ticket.id] = ticket
        self._arrivals[ticket.id] = now
        self.costs[ticket.caller] = self.costs.get(ticket.caller, 0.0) + ticket.cost
        self.cost += ticket.cost
        self.size += ticket.size

    def remove(self, id: int) -> Ticket:
        """Take an item out, wherever it is."""
        ticket = self._tickets.pop(id)
        del self._arrivals[id]
        calls = self._calls[ticket.caller]
        of_call = calls[ticket.call]
        del of_call[id]
        self.costs[ticket.caller] -= ticket.cost
        if not of_call:
            del calls[ticket.call]
        if not calls:
            del self._calls[ticket.caller], self.costs[ticket.caller]
        self.cost -= ticket.cost
        self.size -= ticket.size
        if not self._tickets:
            self.cost = 0.0  # Sums of floats drift; an empty sum is exact.
        return ticket

    def first(self, caller: Hashable) -> Ticket:
        """Return the item of a caller that is served next."""
        calls = self._calls[caller]
        return next(iter(calls[next(iter(calls))].values()))

    def take(self, ticket: Ticket) -> None:
        """Take an item out because it is served: the next turn is another call's."""
        self._calls[ticket.caller].move_to_end(ticket.call)
        self.remove(ticket.id)

    def waits_in_front(self, ticket: Ticket) -> float:
        """Return the cost of what the same call has here already, which goes before `ticket`."""
        calls = self._calls.get(ticket.caller)
        return sum(other.cost for other in calls[ticket.call].values()) if calls and ticket.call in calls else 0.0
