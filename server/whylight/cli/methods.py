"""``whylight methods``: which methods there are, and what may be set for one; knows none of them."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from whylight.cli.parameters import connect, json_option, server_options

if TYPE_CHECKING:
    from whylight.client.catalog import MethodInfo


@click.command("methods")
@click.argument("name", required=False)
@server_options()
@json_option
def command(name: str | None, server: str | None, tls: bool, ca: str | None, as_json: bool) -> None:
    """List the methods, or describe the method NAME with its options; here, or on a server."""
    from whylight.cli import local, printing

    if server:
        with connect(server, tls, ca) as client:
            found = [client.method(name)] if name else client.methods()
    else:
        with printing.waiting("loading plugins"):
            found = [local.local_method(name)] if name else local.local_methods()
    if as_json:
        printing.print_json(asdict(found[0]) if name else [_without_schema(method) for method in found])
    elif name:
        _describe(found[0])
    else:
        rows = [
            (
                method.name,
                method.version,
                method.kind,
                method.plugin,
                ", ".join(method.pictures),
                method.target_use,
                ", ".join(method.needs),
                method.summary,
            )
            for method in found
        ]
        headings = ("method", "version", "kind", "plugin", "pictures", "target", "needs", "summary")
        printing.print_table(headings, rows)


def _without_schema(method: MethodInfo) -> dict[str, object]:
    return {key: value for key, value in asdict(method).items() if key != "options_schema"}


def _describe(method: MethodInfo) -> None:
    from whylight.cli import printing

    click.echo(f"{method.name} {method.version}  ({method.kind}, plugin {method.plugin})\n{method.summary}")
    if method.reference:
        click.echo(method.reference)
    if method.needs:
        click.echo(f"needs {', '.join(method.needs)}")
    if method.target_use:  # an older server says nothing of it
        click.echo(f"pictures: {', '.join(method.pictures) or 'none'}; target: {method.target_use}")
    click.echo()
    rows = []
    for name, schema in method.options_schema.get("properties", {}).items():
        kind = _kind(schema)
        rows.append((name, kind, str(schema.get("default", "")), schema.get("description", "")))
    printing.print_table(("option", "type", "default", "meaning"), rows)


def _kind(schema: dict[str, Any]) -> str:
    """Return the type of an option, or what it may be."""
    if "enum" in schema:
        return "|".join(map(str, schema["enum"]))
    return " or ".join(map(_kind, schema["anyOf"])) if "anyOf" in schema else str(schema.get("type", "any"))
