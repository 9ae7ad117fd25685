"""Has methods evaluated, by this process or by a server, and tells how they compare; draws nothing."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click

import whylight
from whylight.calls import MethodCall, MetricCall
from whylight.cli import printing, saving
from whylight.cli.explaining import Answer, open_here
from whylight.cli.failing import describe
from whylight.cli.local import DEFAULT_MODEL
from whylight.cli.parameters import connect, given_priority
from whylight.errors import WhylightError
from whylight.evaluation import Evaluation
from whylight.outputs import Canvas, Output, PictureOutput
from whylight.target import Target


@dataclass(frozen=True)
class Task:
    """What is to be compared, and how; `options` are those of methods and metrics, by their names."""

    images: Sequence[str]
    model: str
    methods: Sequence[str]
    metrics: Sequence[str]
    targets: Sequence[Target]
    options: Mapping[str, Mapping[str, Any]]
    seed: int | None

    @property
    def method_calls(self) -> list[MethodCall]:
        """The methods with their options."""
        return [MethodCall(name, self.options.get(name, {}), self.seed) for name in self.methods]

    @property
    def metric_calls(self) -> list[MetricCall]:
        """The metrics with their options."""
        return [MetricCall(name, self.options.get(name, {}), self.seed) for name in self.metrics]


def by_name(
    options: Iterable[tuple[str, str, Any]], methods: Sequence[str], metrics: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Return the options of each method and metric.

    Raises:
        UsageError: an option is of something that is not asked for.
    """
    found: dict[str, dict[str, Any]] = defaultdict(dict)
    for name, key, value in options:
        if name not in (*methods, *metrics):
            raise click.UsageError(f"{name}.{key}: {name} is none of {', '.join([*methods, *metrics])}")
        found[name][key] = value
    return dict(found)


def evaluate_here(task: Task, device: str | None, *, pictures: bool) -> Evaluation:
    """Evaluate in this process.

    Raises:
        ModuleNotFoundError: the extra `server` is not installed.
        WhylightError: the model cannot be opened, or no picture could be explained.
    """
    return whylight.evaluate(
        open_here(task.model or DEFAULT_MODEL, device),
        list(task.images),
        task.method_calls,
        task.metric_calls,
        [list(task.targets) or None] * len(task.images) if len(task.targets) != 1 else task.targets[0],
        outputs=_outputs(pictures),
        seed=task.seed,
    )


def evaluate_there(task: Task, server: str, tls: bool, ca: str | None, *, pictures: bool) -> Evaluation:
    """Evaluate on a server, in one call.

    Raises:
        WhylightError: the server cannot be reached, or nothing of the call could be tried.
    """
    with connect(server, tls, ca) as client:
        return client.evaluate(
            list(task.images),
            task.method_calls,
            task.metric_calls,
            model=task.model,
            target=list(task.targets) or None,
            outputs=_outputs(pictures),
            priority=given_priority(),
        )


def failed(found: Evaluation) -> bool:
    """Whether a picture could not be explained."""
    return any(isinstance(result, WhylightError) for result in found.results)


def print_ranking(found: Evaluation, images: Sequence[str]) -> None:
    """Print a table of the methods, the best of all first, and what went wrong on standard error."""
    for image, result in zip(images, found.results, strict=True):
        if isinstance(result, WhylightError):
            for line in describe(result):
                click.echo(f"{image}: {line}", err=True)
    if not found.rankings:
        return
    *rankings, overall = found.rankings
    directions = _directions(found)
    columns = ["method", *(f"{ranking.metric} {directions[ranking.metric_index]}" for ranking in rankings), "mean rank"]
    rows = []
    for ranked in overall.methods:
        cells = [_cell(ranking, ranked.method_index) for ranking in (*rankings, overall)]
        rows.append([ranked.method, *cells])
    printing.print_table(columns, rows)
    click.echo("* the best; ↑ higher is better, ↓ lower is better")


def as_json(found: Evaluation, images: Sequence[str], out: str | None) -> dict[str, Any]:
    """Return an evaluation for machines; the picture is named by its file."""
    answers = [
        Answer(image, error=result) if isinstance(result, WhylightError) else Answer(image, result)
        for image, result in zip(images, found.results, strict=True)
    ]
    results: list[dict[str, Any]] = saving.as_json(answers, {})["results"]
    for answer, result in zip(answers, results, strict=True):
        explanations = answer.explained.explanations if answer.explained else ()
        for explanation, told in zip(explanations, result.get("explanations", ()), strict=True):
            del told["artifacts"]
            told["measurements"] = [vars(measurement) for measurement in explanation.measurements]
    return {
        "model": found.model,
        "model_digest": found.model_digest,
        "rankings": found.rankings,
        "results": results,
        "picture": out,
    }


def _cell(ranking: whylight.Ranking, method: int) -> str:
    """Return a method's mean value, or its mean rank in the ranking by all metrics, marked where none is better."""
    (mine,) = (ranked for ranked in ranking.methods if ranked.method_index == method)
    best = mine.mean_rank == ranking.methods[0].mean_rank
    return f"{mine.mean_rank if mine.mean_value is None else mine.mean_value:.4g}{' *' if best else ''}"


def _directions(found: Evaluation) -> list[str]:
    explained = next(result for result in found.results if not isinstance(result, WhylightError))
    return ["↑" if one.higher_is_better else "↓" for one in explained.explanation.measurements]


def _outputs(pictures: bool) -> list[Output]:
    return [PictureOutput(canvas=Canvas.ORIGINAL)] if pictures else []
