"""Has pictures explained, by this process or by a server, one answer for each; draws and prints nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import whylight
from whylight.cli import printing
from whylight.cli.local import DEFAULT_MODEL
from whylight.cli.parameters import connect
from whylight.errors import WhylightError
from whylight.explanation import Explained
from whylight.outputs import Output
from whylight.target import Target


@dataclass(frozen=True)
class Task:
    """What is to be explained, and how."""

    images: Sequence[str]
    model: str
    methods: Sequence[str]
    targets: Sequence[Target]
    options: Mapping[str, Any]
    outputs: Sequence[Output]
    seed: int | None
    top: int


@dataclass(frozen=True)
class Answer:
    """What came of one picture: either of the two."""

    image: str
    explained: Explained | None = None
    error: WhylightError | None = None


def explain_here(task: Task, device: str | None) -> list[Answer]:
    """Explain in this process, one picture after the other, so that a bad one harms no other.

    Raises:
        ModuleNotFoundError: the extra `server` is not installed.
        WhylightError: the model cannot be opened.
    """
    model = task.model or DEFAULT_MODEL
    with printing.waiting(f"opening {model}"):
        opened = _open(model, device)
    answers = []
    with printing.progress("explaining", len(task.images)) as bar:
        for image in task.images:
            try:
                answers.append(Answer(image, _explain(opened, image, task)))
            except WhylightError as error:
                answers.append(Answer(image, error=error))
            bar.advance(bar.task_ids[0])
    return answers


def explain_there(task: Task, server: str, tls: bool, ca: str | None) -> list[Answer]:
    """Explain on a server. One picture is one call, which gRPC tries again; several share an open one.

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
    }
    answers: dict[int, Answer] = {}
    with connect(server, tls, ca) as client:
        if len(task.images) == 1:
            with printing.waiting("explaining"):
                return [Answer(task.images[0], client.explain(task.images[0], task.methods, **keywords))]
        with printing.progress("explaining", len(task.images)) as bar:
            for index, result in client.explain_many(task.images, task.methods, **keywords):
                image = task.images[index]
                answers[index] = (
                    Answer(image, error=result) if isinstance(result, WhylightError) else Answer(image, result)
                )
                bar.advance(bar.task_ids[0])
    return [answers[index] for index in range(len(task.images))]


def _open(name: str, device: str | None) -> Any:
    import torch

    from whylight.cli.local import load_plugins
    from whylight.errors import NotFound
    from whylight.models import ModelConfig, open_model

    if ":" not in name:
        raise NotFound(
            f"{name!r} says not where it comes from; give SCHEME:NAME, such as {DEFAULT_MODEL}",
            reason="MODEL_NOT_FOUND",
            field="model",
        )
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    return open_model(ModelConfig(name=name, source=name), load_plugins().sources, chosen)


def _explain(model: Any, image: str, task: Task) -> Explained:
    explained: Any = whylight.explain(  # one image gives an Explained
        model,
        image,
        list(task.methods),
        list(task.targets) or None,
        options=task.options,
        outputs=task.outputs,
        seed=task.seed,
        top_predictions=task.top,
    )
    return cast(Explained, explained)
