"""``whylight plugins``: which plugins there are, and why one is not in use; knows none of them."""

from __future__ import annotations

from dataclasses import asdict

import click

from whylight.cli.parameters import connect, json_option, server_options


@click.command("plugins")
@server_options()
@json_option
def command(server: str | None, tls: bool, ca: str | None, as_json: bool) -> None:
    """List the plugins that are installed here, or on a server, and what became of them."""
    from whylight.cli import local, printing

    if server:
        with connect(server, tls, ca) as client:
            plugins = client.plugins()
    else:
        with printing.waiting("loading plugins"):
            plugins = local.local_plugins()
    if as_json:
        printing.print_json([asdict(plugin) for plugin in plugins])
        return
    rows = [
        (
            plugin.name,
            plugin.state,
            f"{plugin.distribution} {plugin.version}".strip(),
            ", ".join((*plugin.methods, *(f"{scheme}:" for scheme in plugin.model_sources))),
            plugin.error,
        )
        for plugin in plugins
    ]
    printing.print_table(("plugin", "state", "from", "offers", "error"), rows)
