"""Has pictures made or a model inspected, by this process or by a server; draws nothing and writes no file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import whylight
from whylight.cli import printing
from whylight.cli.explaining import open_here
from whylight.cli.local import DEFAULT_MODEL
from whylight.cli.parameters import connect, given_priority
from whylight.errors import InternalError
from whylight.explanation import Explanation
from whylight.made import (
    InspectionProgress,
    InspectionResult,
    SynthesisFailure,
    SynthesisPreview,
    SynthesisProgress,
    SynthesisResult,
)
from whylight.outputs import Output
from whylight.target import Target


@dataclass(frozen=True)
class Place:
    """Where the work is done: on a server, or here on a device."""

    server: str | None
    tls: bool
    ca: str | None
    device: str | None


@dataclass(frozen=True)
class LongTask:
    """What is to be made, or looked at. `size` is (height, width), and with what follows belongs to a synthesis.

    `others` are sources of further models, and `data_sets` folders and archives, by name, for work that is done here.
    """

    method: str
    targets: Sequence[Target]
    pictures: Sequence[str]
    model: str
    options: Mapping[str, Any]
    seed: int | None
    others: Mapping[str, str] = field(default_factory=dict)
    data_sets: Mapping[str, str] = field(default_factory=dict)
    size: tuple[int, int] | None = None
    outputs: Sequence[Output] = ()
    preview_interval: int = 0
    top: int = 5


@dataclass
class Made:
    """What came of a synthesis: an event for each target, and the pictures on the way by target."""

    outcomes: list[SynthesisResult | SynthesisFailure] = field(default_factory=list)
    course: dict[int, list[SynthesisPreview]] = field(default_factory=dict)


def synthesise(task: LongTask, place: Place) -> Made:
    """Make the pictures, with a bar for each and its losses on a terminal.

    Raises:
        WhylightError: nothing could be made.
        ModuleNotFoundError: it is to be done here, and the extra `server` is not installed.
    """
    made = Made()
    names = [str(index) for index in range(max(1, len(task.targets)))]
    opened, others = _open(task, place)
    with printing.bars(task.method, names) as bars:

        def take(event: Any) -> None:
            if isinstance(event, SynthesisProgress):
                losses = " ".join(f"{name} {value:.4g}" for name, value in event.losses.items())
                bars.tell(event.target_index, f"{task.method} {losses}", event.step, event.total_steps)
            elif isinstance(event, SynthesisPreview):
                made.course.setdefault(event.target_index, []).append(event)
            else:
                made.outcomes.append(event)

        if place.server:
            with connect(place.server, place.tls, place.ca) as client:
                for event in client.synthesize(
                    task.method,
                    list(task.targets) or None,
                    pictures=list(task.pictures),
                    model=task.model,
                    options=task.options,
                    size=task.size,
                    outputs=task.outputs,
                    seed=task.seed,
                    preview_interval=task.preview_interval,
                    top_predictions=task.top,
                    priority=given_priority(),
                ):
                    take(event)
        else:
            wanted: list[Any] = list(task.targets) or [None]
            for result in whylight.synthesise(
                opened,
                task.method,
                wanted,
                pictures=list(task.pictures),
                options=task.options,
                seed=task.seed,
                size=task.size,
                outputs=task.outputs,
                top_predictions=task.top,
                on_progress=take,
                on_preview=take,
                preview_interval=task.preview_interval,
                others=others,
            ):
                take(result)
    made.outcomes.sort(key=lambda outcome: outcome.target_index)
    return made


def inspect(task: LongTask, place: Place) -> Explanation:
    """Look, with a bar on a terminal.

    Raises:
        WhylightError: it failed.
        ModuleNotFoundError: it is to be done here, and the extra `server` is not installed.
    """
    opened, others = _open(task, place)
    with printing.bars(task.method, [task.method]) as bars:

        def tell(event: InspectionProgress) -> None:
            bars.tell(0, task.method, event.step, event.total_steps)

        if not place.server:
            return whylight.inspect(
                opened,
                task.method,
                list(task.pictures),
                list(task.targets) or None,
                options=task.options,
                seed=task.seed,
                on_progress=tell,
                others=others,
                data_sets=task.data_sets,
            )
        with connect(place.server, place.tls, place.ca) as client:
            for event in client.inspect(
                task.method,
                list(task.pictures),
                target=list(task.targets) or None,
                model=task.model,
                options=task.options,
                seed=task.seed,
                priority=given_priority(),
            ):
                if isinstance(event, InspectionResult):
                    return event.explanation
                tell(event)
    raise InternalError("the server ended an inspection without a result", reason="RESPONSE_INVALID")


def _open(task: LongTask, place: Place) -> tuple[Any, dict[str, Any]]:
    """Return the model, and those beside it by name; nothing where a server does the work."""
    if place.server:
        return None, {}
    model = task.model or DEFAULT_MODEL
    with printing.waiting(f"opening {model}"):
        opened = open_here(model, place.device)
        return opened, {name: open_here(source, place.device) for name, source in task.others.items()}
