"""How answers look on a terminal and in a pipe; knows nothing of where they come from."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
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
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal or total < 2) as bar:
        bar.add_task(what, total=total)
        yield bar


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
