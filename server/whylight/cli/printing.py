"""How answers look on a terminal and in a pipe; knows nothing of where they come from."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

_PIPE_WIDTH = 160


def output() -> Console:
    """Return the console for answers. In a pipe, lines are wide, not cut to a terminal that is not there."""
    return Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH, highlight=False)


def notices() -> Console:
    """Return the console for what passes: spinners, bars, remarks; on standard error, so that pipes stay clean."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a value as JSON; dataclasses are objects."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, default=_plain))


def print_table(columns: Iterable[str], rows: Iterable[Iterable[Any]], *, title: str | None = None) -> None:
    """Print a table. Numbers stand at the right."""
    cells = [list(row) for row in rows]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        right = all(isinstance(row[index], int | float) for row in cells)
        table.add_column(column, justify="right" if right and cells else "left", overflow="fold")
    for row in cells:
        table.add_row(*(_text(cell) for cell in row))
    output().print(table)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show a spinner on a terminal."""
    console = notices()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


@contextmanager
def progress(what: str, total: int) -> Iterator[Progress]:
    """Show a bar on a terminal, and take it away in the end. Advance its only task, 0."""
    console = notices()
    with Progress(*_columns(), console=console, transient=True, disable=not console.is_terminal or total < 2) as bar:
        bar.add_task(what, total=total)
        yield bar


class Bars:
    """A bar for several pictures, and below it one for each that tells how far it is; one picture has only its own."""

    def __init__(self, bar: Progress, what: str, pictures: Sequence[str]) -> None:
        self._bar = bar
        self._pictures = pictures
        self._all = bar.add_task(what, total=len(pictures) if len(pictures) > 1 else None)
        self._tasks: dict[int, TaskID] = {}

    def tell(self, index: int, doing: str, done: int, total: int) -> None:
        """Show that so much of what is done to a picture is done."""
        if len(self._pictures) == 1:
            self._bar.update(self._all, description=doing, completed=done, total=total)
            return
        description = f"  {self._pictures[index]}: {doing}"
        if index not in self._tasks:
            self._tasks[index] = self._bar.add_task(description, total=total)
        self._bar.update(self._tasks[index], description=description, completed=done, total=total)

    def end(self, index: int) -> None:
        """Show that a picture is done."""
        if index in self._tasks:
            self._bar.remove_task(self._tasks.pop(index))
        if len(self._pictures) > 1:
            self._bar.advance(self._all)


@contextmanager
def bars(what: str, pictures: Sequence[str]) -> Iterator[Bars]:
    """Show bars on a terminal, and take them away in the end."""
    console = notices()
    with Progress(*_columns(), console=console, transient=True, disable=not console.is_terminal) as bar:
        yield Bars(bar, what, pictures)


def _columns() -> tuple[ProgressColumn, ...]:
    return TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()


def _text(cell: Any) -> str:
    from rich.markup import escape

    if isinstance(cell, bool):
        return "yes" if cell else "no"
    return escape(f"{cell:.4g}" if isinstance(cell, float) else str(cell))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} has no form in JSON")
