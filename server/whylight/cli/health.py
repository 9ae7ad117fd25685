"""``whylight health``: whether a server serves, as an exit code for scripts and containers; asks for nothing else."""

from __future__ import annotations

import click

from whylight.cli.parameters import connect, server_options


@click.command("health")
@server_options(required=True)
@click.option(
    "--service",
    default="",
    metavar="NAME",
    help="Which service: liveness for whether the process answers at all; the server as a whole when left out.",
)
@click.option(
    "--wait",
    "seconds",
    type=click.FloatRange(0, 3600, min_open=True),
    default=3.0,
    show_default=True,
    help="How long it may take to say so, in seconds.",
)
def command(server: str, tls: bool, ca: str | None, service: str, seconds: float) -> int:
    """Exit with 0 if the server says that it serves, by the standard health service, and with 1 if it does not."""
    from whylight.errors import DeadlineExceeded, WhylightError

    with connect(server, tls, ca) as client:
        try:
            client.wait_ready(seconds, service=service)
        except DeadlineExceeded:
            click.echo(f"not serving: {server} did not say within {seconds:g} s that it serves", err=True)
        except WhylightError as error:
            click.echo(f"not serving: {error.message}", err=True)
        else:
            click.echo("serving")
            return 0
    return 1
