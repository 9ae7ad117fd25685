"""One pass through a module, and the hooks that let it be watched and split; knows no target, no batch and no method.

The hooks are installed once, when a model is loaded, on the server's own copy. A hook does nothing unless the pass
that is being made in this context (a context variable) asks for its layer, so that passes of many threads through one
module never meet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from whylight.errors import Unsupported


class Watcher(Protocol):
    """What is told of layers' outputs during a pass."""

    wanted: frozenset[str] | None
    """Layers that it asks for; None is all of them."""

    running: list[str] | None
    """Where to keep the names of the layers that are running, innermost last; None is nowhere."""

    def on_output(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Take a layer's output; return what the rest of the module gets in its place, or None to leave it."""


_watcher: ContextVar[Watcher | None] = ContextVar("whylight_watcher", default=None)


@contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Tell `watcher` of the outputs of layers that run inside, in this context only."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def install_hooks(module: nn.Module, names: Iterable[str] | None = None, *, traceable: bool = True) -> None:
    """Put an inert hook on the layers of `module`: all of them, or those in `names`.

    With ``traceable=False`` torch.compile does not look into the hooks: it ends one graph before them and begins
    another behind them.
    """
    chosen = None if names is None else frozenset(names)
    for name, layer in module.named_modules():
        if name and (chosen is None or name in chosen):
            hook = _hook(name)
            layer.register_forward_hook(hook if traceable else torch.compiler.disable(hook))  # type: ignore[no-untyped-call]
            if chosen is None:
                layer.register_forward_pre_hook(_pre_hook(name))


def _hook(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        watcher = _watcher.get()
        if watcher is not None and watcher.running:
            watcher.running.pop()
        if watcher is None or (watcher.wanted is not None and name not in watcher.wanted):
            return None
        return watcher.on_output(name, module, inputs, output)

    return hook


def _pre_hook(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        watcher = _watcher.get()
        if watcher is not None and watcher.running is not None:
            watcher.running.append(name)

    return hook


class BrokenOff(Exception):
    """Ends a pass from which everything that was wanted is captured."""


class Run:
    """What one pass is to capture, and what it captured.

    `split` names the layer whose output becomes a leaf: what runs before it records no graph, because parameters are
    frozen and inputs need no gradient; what runs behind it does. `watch` names layers whose outputs are kept with
    their graph. A layer that runs several times in a pass (`passes`) is captured at its last time.

    What goes on behind a captured layer gets a copy, so that an operation in place never writes into what was kept.
    `narrow_until` ends autocast: behind that layer everything is computed in float32. With `widens`, what autocast made
    narrow is given away as float32; the pass itself goes on with what it had, and is the same wherever it is split.

    With `swap`, what goes on behind a layer is what a function makes of its output, which may have more rows.
    With `tracked`, the names of the running layers are kept in `running`. With `breaks_off`, the pass ends, by raising
    `BrokenOff`, as soon as all of `watch` is captured.
    """

    def __init__(
        self,
        passes: dict[str, int],
        *,
        split: str | None = None,
        watch: Iterable[str] = (),
        narrow_until: str | None = None,
        widens: bool = False,
        swap: tuple[str, Callable[[Tensor], Tensor]] | None = None,
        tracked: bool = False,
        breaks_off: bool = False,
    ) -> None:
        self.split = split
        self.watch = frozenset(watch)
        self.leaf: Tensor | None = None
        self.watched: dict[str, Tensor] = {}
        self.running: list[str] | None = [] if tracked else None
        ends = (split, narrow_until, swap and swap[0])
        self.wanted: frozenset[str] | None = self.watch | {name for name in ends if name is not None}
        self._swap = swap
        self._swapped = False
        self._breaks_off = breaks_off
        self._narrow_until = narrow_until
        self._widens = widens
        self._passes = passes
        self._seen: dict[str, int] = {}
        self._versions: list[tuple[str, Tensor, int]] = []

    def on_output(self, name: str, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Keep the output if it is the last of its layer."""
        seen = self._seen[name] = self._seen.get(name, 0) + 1
        if seen != self._passes.get(name, 1):
            return None
        if not isinstance(output, Tensor):
            if name not in self.watch and name != self.split and not self._swaps(name):
                return None
            raise Unsupported(f"layer {name!r} gives {type(output).__name__}, not one tensor", field="options.layer")
        if name == self._narrow_until:
            torch.set_autocast_enabled(output.device.type, False)
            output = output.to(self._wide(output))
        if self._swap is not None and self._swaps(name):
            self._swapped = True
            swapped = self._swap[1](output.to(self._wide(output))).to(output.dtype)
            if name not in self.watch:
                return swapped
            output = swapped  # What points into the layer sees what is there now.
        if name == self.split:
            self.leaf = output.detach().to(self._wide(output)).requires_grad_(True)
            self._versions.append((name, self.leaf, self.leaf._version))
            if name in self.watch:
                self.watched[name] = self.leaf.clone()
            return self.leaf.to(output.dtype, copy=True)
        if name in self.watch:
            self.watched[name] = output.to(self._wide(output))
            self._versions.append((name, self.watched[name], self.watched[name]._version))
            if self._breaks_off and len(self.watched) == len(self.watch):
                raise BrokenOff
            return output.clone()
        return output

    def _swaps(self, name: str) -> bool:
        return self._swap is not None and name == self._swap[0]

    def _wide(self, output: Tensor) -> torch.dtype:
        """Return the type in which an output is given away: float32 for what autocast made narrow."""
        return torch.float32 if self._widens and output.dtype in (torch.bfloat16, torch.float16) else output.dtype

    def finish(self) -> None:
        """Make sure that everything asked for was captured, and stayed as it was captured.

        Raises:
            Unsupported: a layer did not run, or its output was changed in place by someone who held it beforehand.
        """
        captured = set(self.watched) | ({self.split} if self.leaf is not None else set())
        missing = sorted(name for name in self.watch | {self.split or ""} if name and name not in captured)
        if self._swap is not None and not self._swapped:
            missing.append(self._swap[0])
        if missing:
            raise Unsupported(f"layer {missing[0]!r} does not run for this input", field="options.layer")
        for name, kept, version in self._versions:
            if kept._version != version:
                raise Unsupported(
                    f"the output of layer {name!r} is changed in place by other layers; choose the layer behind it",
                    field="options.layer",
                )
