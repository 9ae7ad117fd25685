"""What was found out about the inputs of one batch, and which of it is old; computes nothing."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

from torch import Tensor


@dataclass
class Memory:
    """What is known of one tensor of inputs, with its companions. What was kept before `begin` was last called is old.

    Values are tuples of tensors, under a key of any kind; `taken` has the names of the old ones that were asked for,
    in the order in which they were.
    """

    inputs: Tensor
    companions: Mapping[str, Tensor] = field(default_factory=dict)
    taken: dict[str, None] = field(default_factory=dict)
    _kept: dict[Hashable, _Entry] = field(default_factory=dict)
    _old: set[Hashable] = field(default_factory=set)

    def is_of(self, inputs: Tensor, companions: Mapping[str, Tensor]) -> bool:
        """Whether this is known of just these tensors."""
        return (
            self.inputs is inputs
            and self.companions.keys() == companions.keys()
            and all(self.companions[name] is values for name, values in companions.items())
        )

    def begin(self) -> None:
        """Call everything old, and nothing taken."""
        self._old = set(self._kept)
        self.taken = {}

    def __contains__(self, key: Hashable) -> bool:
        """Whether something is kept under `key`. What a method wrote into is forgotten: it is no answer for another."""
        entry = self._kept.get(key)
        if entry is not None and entry.versions != _versions(entry.tensors):
            del self._kept[key]
            self._old.discard(key)
        return key in self._kept

    def keep(self, key: Hashable, name: str, *tensors: Tensor) -> None:
        """Keep tensors under `key`; `name` is for people. What is kept already stays as it is."""
        if key not in self:
            self._kept[key] = _Entry(tensors, _versions(tensors), name)

    def take(self, key: Hashable) -> tuple[Tensor, ...]:
        """Return what is kept under `key`.

        Raises:
            KeyError: nothing is.
        """
        entry = self._kept[key]
        if key in self._old:
            self.taken[entry.name] = None
        return entry.tensors


@dataclass(frozen=True)
class _Entry:
    tensors: tuple[Tensor, ...]
    versions: tuple[int, ...]
    name: str


def _versions(tensors: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(tensor._version for tensor in tensors)
