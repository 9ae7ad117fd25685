"""Whose turn it is: surplus round-robin by cost among whoever waits, pure; knows not what is waited for."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)


class Turns(Generic[Key]):
    """Takes turns, fair by cost and not by count.

    This is deficit round-robin (Shreedhar and Varghese, SIGCOMM 1995) in the variant that lets the served go into debt
    (surplus round-robin), so that nobody has to know what a turn costs before it is taken. In each round everybody gets
    `round_credit`; who has credit left is served, pays, and goes to the back. Over any time in which two have work they
    are served the same cost, up to one round's credit and one turn. Nobody starves: newcomers begin without credit, so
    rounds end, and each round pays debts back. Who leaves keeps a debt, so that coming with one expensive thing at a
    time gains nothing; `forgotten` is called when nothing is known of somebody any more.
    """

    def __init__(self, round_credit: float, forgotten: Callable[[Key], None] = lambda key: None) -> None:
        self._round_credit = round_credit
        self._forgotten = forgotten
        self._credits: OrderedDict[Key, float] = OrderedDict()
        self._gone: set[Key] = set()

    def __len__(self) -> int:
        """How many are known, debtors that left among them."""
        return len(self._credits)

    def __contains__(self, key: Key) -> bool:
        return key in self._credits

    def __iter__(self) -> Iterator[Key]:
        return iter(self._credits)

    def join(self, key: Key) -> None:
        """Let somebody take turns, at the end and without credit; who is known keeps credit and place."""
        self._gone.discard(key)
        self._credits.setdefault(key, 0.0)

    def leave(self, key: Key) -> None:
        """Let somebody take no more turns."""
        if self._credits[key] >= 0:
            self._forget(key)
        else:
            self._gone.add(key)

    def next(self, ready: Callable[[Key], bool]) -> Key | None:
        """Return whose turn it is among those that `ready` is true of; None when it is of nobody."""
        richest = -math.inf
        for key, credit in self._credits.items():
            if key not in self._gone and ready(key):
                if credit > 0:
                    return key
                richest = max(richest, credit)
        if richest == -math.inf:
            return None
        self._begin_rounds(richest)
        return next(key for key, credit in self._credits.items() if credit > 0 and key not in self._gone and ready(key))

    def charge(self, key: Key, cost: float) -> None:
        """Have somebody pay for what was served, and go to the back."""
        self._credits[key] -= cost
        self._credits.move_to_end(key)

    def clear(self) -> None:
        """Forget everybody."""
        self._credits.clear()
        self._gone.clear()

    def _begin_rounds(self, richest: float) -> None:
        """Give everybody the credit of as many rounds as the richest one that is ready needs to be served."""
        rounds = int(-richest // self._round_credit) + 1
        for key, credit in list(self._credits.items()):
            self._credits[key] = min(credit + rounds * self._round_credit, self._round_credit)
            if key in self._gone and self._credits[key] >= 0:
                self._forget(key)

    def _forget(self, key: Key) -> None:
        del self._credits[key]
        self._gone.discard(key)
        self._forgotten(key)
