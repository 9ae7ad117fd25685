"""``whylight token``: makes bearer tokens for a server; keeps none and asks no server."""

from __future__ import annotations

import datetime
import os
from pathlib import Path

import click


@click.group("token")
def command() -> None:
    """Make bearer tokens, which a server's operator gives to those who may call it."""


@command.command("new")
@click.option("--name", required=True, help="Who it is for; it is in the server's logs and metrics.")
@click.option(
    "--scopes",
    default="explain,catalog",
    show_default=True,
    metavar="SCOPE,…",
    help="What it is good for: explain, catalog, admin, metrics.",
)
@click.option("--days", type=click.IntRange(1, 36500), help="How long it is valid; for ever when left out.")
@click.option("--calls-per-second", type=click.FloatRange(0, min_open=True), help="How often its bearer may call.")
@click.option(
    "--evaluations-per-second",
    type=click.FloatRange(0, min_open=True),
    help="How many model evaluations its bearer's calls may cost.",
)
@click.option(
    "--save",
    type=click.Path(dir_okay=False, path_type=Path),
    help="New file for the token, which only you can read; the token is then not printed.",
)
def new(
    name: str,
    scopes: str,
    days: int | None,
    calls_per_second: float | None,
    evaluations_per_second: float | None,
    save: Path | None,
) -> None:
    """Make a token. It is shown once; the server's file of tokens gets the lines printed below it, which hold none.

    With --save, nothing but those lines is printed: whylight token new --name ci --save ci.token >> tokens.toml
    """
    from whylight.security.new_token import new_token
    from whylight.security.scope import Scope
    from whylight.security.token_file import NAME

    chosen = list(dict.fromkeys(scope.strip() for scope in scopes.split(",")))
    unknown = [scope for scope in chosen if scope not in {known.value for known in Scope}]
    if unknown:
        known = ", ".join(scope.value for scope in Scope)
        raise click.BadParameter(f"no scope {unknown[0]!r}; there are {known}", param_hint="--scopes")
    if not NAME.fullmatch(name):
        raise click.BadParameter("up to 64 letters, digits, dots, underscores and dashes", param_hint="--name")
    expires = None if days is None else datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    made = new_token(
        name,
        chosen,
        expires=expires,
        calls_per_second=calls_per_second,
        evaluations_per_second=evaluations_per_second,
    )
    if save is None:
        click.echo(f"{made.token}\n")
    else:
        _save(save, made.token)
    click.echo(made.lines)


def _save(path: Path, token: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as error:
        raise click.BadParameter(f"{path}: {error.strerror}", param_hint="--save") from None
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
