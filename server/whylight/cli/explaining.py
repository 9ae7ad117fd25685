"""Has pictures explained, by this process or by a server, one answer for each; draws and prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import whylight
from whylight.cli import printing
from whylight.cli.local import DEFAULT_MODEL
from whylight.cli.parameters import connect, given_priority
from whylight.client import Client, Input
from whylight.errors import Overloaded, Unavailable, WhylightError
from whylight.explanation import Explained
from whylight.outputs import Output
from whylight.progress import Progress
from whylight.target import Target


@dataclass(frozen=True)
class Task:
    """What is to be explained, and how."""

    images: Sequence[str]
    model: str
    methods: Sequence[str]
    targets: Sequence[Target]
    options: Mapping[str, Any]
    companions: Mapping[str, Any]
    outputs: Sequence[Output]
    seed: int | None
    top: int


@dataclass(frozen=True)
class Answer:
    """What came of one picture: either of the two. `maps` says whether it was explained, and not made, by maps."""

    image: str
    explained: Explained | None = None
    error: WhylightError | None = None
    maps: bool = True


def explain_here(task: Task, device: str | None) -> list[Answer]:
    """Explain in this process, one picture after the other, so that a bad one harms no other.

    Raises:
        ModuleNotFoundError: the extra `server` is not installed.
        WhylightError: the model cannot be opened.
    """
    model = task.model or DEFAULT_MODEL
    with printing.waiting(f"opening {model}"):
        opened = open_here(model, device)
    answers = []
    with printing.bars("explaining", task.images) as bars:
        for index, image in enumerate(task.images):
            try:
                answers.append(Answer(image, _explain(opened, image, task, partial(_tell, bars, index))))
            except WhylightError as error:
                answers.append(Answer(image, error=error))
            bars.end(index)
    return answers


def explain_there(task: Task, server: str, tls: bool, ca: str | None) -> list[Answer]:
    """Explain on a server. One picture is one call, which gRPC tries again; several share an open one.

    On a terminal one picture has an open call as well, over which the server tells how far it is; it is followed by
    one that is tried again if the server cannot take it at once.

    Raises:
        WhylightError: the server cannot be reached, or the call broke off.
    """
    keywords: dict[str, Any] = {
        "model": task.model,
        "target": list(task.targets) or None,
        "options": task.options,
        "outputs": task.outputs,
        "seed": task.seed,
        "top_predictions": task.top,
        "priority": given_priority(),
    }
    with connect(server, tls, ca) as client:
        if len(task.images) > 1:
            return _stream(client, task, keywords)
        if printing.notices().is_terminal:
            with suppress(Overloaded, Unavailable):
                (answer,) = _stream(client, task, keywords)
                if answer.error is not None:
                    raise answer.error
                return [answer]
        image = Input(task.images[0], companions=task.companions)
        return [Answer(task.images[0], client.explain(image, task.methods, **keywords))]


def _stream(client: Client, task: Task, keywords: dict[str, Any]) -> list[Answer]:
    answers: dict[int, Answer] = {}
    with printing.bars("explaining", task.images) as bars:
        if printing.notices().is_terminal:
            keywords = {**keywords, "on_progress": lambda news: _tell(bars, news.input_index, news)}
        images = [Input(image, companions=task.companions) for image in task.images]
        for index, result in client.explain_many(images, task.methods, **keywords):
            image = task.images[index]
            answers[index] = Answer(image, error=result) if isinstance(result, WhylightError) else Answer(image, result)
            bars.end(index)
    return [answers[index] for index in range(len(task.images))]


def open_here(name: str, device: str | None) -> Any:
    """Open a model by its source, on a device, for this process."""
    """Open a model by its source, on a device, or on the one there is.

    Raises:
        WhylightError: it cannot be opened.
    """
    import torch

    from whylight.cli.local import load_plugins
    from whylight.models import ModelConfig, open_model
    from whylight.models.source import unplaced_name

    sources = load_plugins().sources
    if ":" not in name:
        raise unplaced_name(name, sources)
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return open_model(ModelConfig(name=name, source=name), sources, chosen)


def _tell(bars: printing.Bars, index: int, news: Progress) -> None:
    bars.tell(index, news.method, news.done, news.total)


def _explain(model: Any, image: str, task: Task, on_progress: Callable[[Progress], None]) -> Explained:
    explained: Any = whylight.explain(  # one image gives an Explained
        model,
        image,
        list(task.methods),
        list(task.targets) or None,
        options=task.options,
        outputs=task.outputs,
        seed=task.seed,
        top_predictions=task.top,
        companions=task.companions,
        on_progress=on_progress,
    )
    return cast(Explained, explained)
