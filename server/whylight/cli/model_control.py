"""``whylight models status|load|unload|reload``: what a server's administrator does to models; knows no server."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from whylight.cli.parameters import connection_settings, json_option, server_options

if TYPE_CHECKING:
    from whylight.client import AdminClient, ModelStatus

ADMIN = "WHYLIGHT_ADMIN_ADDRESS"
"""Environment variable with the address of the listener for administrators. Two words, so that no setting is meant."""

admin_options = server_options(
    required=True,
    name="--admin",
    metavar="ADDRESS",
    help="Where the server listens to administrators: unix:PATH or HOST:PORT, as [admin] in its settings says.",
    envvar=ADMIN,
)


@click.command("status")
@admin_options
@json_option
def status(admin: str, tls: bool, ca: str | None, as_json: bool) -> None:
    """Tell what became of each model: its state, its version, the workers that have it."""
    from whylight.cli import printing

    with _connect(admin, tls, ca) as client:
        models = client.models()
    if as_json:
        printing.print_json([_plain(model) for model in models])
        return
    rows = [
        (
            model.name,
            model.state,
            model.generation,
            model.digest[:19],
            " ".join(f"{one.worker}:{','.join(map(str, one.generations)) or '-'}" for one in model.workers),
            _remark(model),
        )
        for model in models
    ]
    printing.print_table(("model", "state", "version", "digest", "worker:versions", "remark"), rows)


@click.command("load")
@click.argument("name")
@admin_options
@json_option
def load(name: str, admin: str, tls: bool, ca: str | None, as_json: bool) -> None:
    """Load the model NAME of the server's configuration, which is read again."""
    _change("load", name, admin, tls, ca, as_json)


@click.command("unload")
@click.argument("name")
@admin_options
@json_option
def unload(name: str, admin: str, tls: bool, ca: str | None, as_json: bool) -> None:
    """Unload the model NAME: no new calls, those that it has end, and it is freed."""
    _change("unload", name, admin, tls, ca, as_json)


@click.command("reload")
@click.argument("name")
@admin_options
@json_option
def reload(name: str, admin: str, tls: bool, ca: str | None, as_json: bool) -> None:
    """Load the model NAME anew, as the configuration says now, and drop no call: the old version answers until then."""
    _change("reload", name, admin, tls, ca, as_json)


def _change(verb: str, name: str, admin: str, tls: bool, ca: str | None, as_json: bool) -> None:
    from whylight.cli import printing

    with _connect(admin, tls, ca) as client:
        tell = (lambda _: None) if as_json else _tell
        last = getattr(client, verb)(name, on_status=tell)
    if as_json:
        printing.print_json(_plain(last))


def _tell(model: ModelStatus) -> None:
    version = f" version {model.generation}" if model.generation else ""
    remark = _remark(model)
    click.echo(f"{model.name}: {model.state}{version}{f' ({remark})' if remark else ''}")


def _remark(model: ModelStatus) -> str:
    """Return what is going on with a model, or went wrong."""
    remarks = []
    if model.next_generation and model.state == "ready":
        remarks.append(f"version {model.next_generation} is being loaded")
    if model.ending_calls:
        remarks.append(f"{model.ending_calls} calls at work on a version that goes")
    if model.error is not None:
        remarks.append(f"{model.error.message} ({model.error.reason})")
    return "; ".join(remarks)


def _plain(model: ModelStatus) -> dict[str, Any]:
    from whylight.cli.failing import error_as_json

    plain = {key: value for key, value in vars(model).items() if key not in ("error", "workers", "ready_time")}
    plain["ready_time"] = None if model.ready_time is None else model.ready_time.isoformat()
    plain["workers"] = [asdict(worker) for worker in model.workers]
    plain["error"] = None if model.error is None else error_as_json(model.error)
    return plain


def _connect(admin: str, tls: bool, ca: str | None) -> AdminClient:
    from whylight.client import AdminClient

    if os.path.exists(admin) and not admin.startswith("unix:"):
        raise click.BadParameter(f"a path is written unix:{os.path.abspath(admin)}", param_hint="--admin")
    return AdminClient(admin, **connection_settings(admin, tls, ca))
