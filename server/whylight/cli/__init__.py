"""The command line: which commands there are; knows nothing of what they do, and imports it only when one is called.

``whylight --help`` imports neither torch, pluggy nor gRPC: commands import click at their top and the rest inside.
"""

from __future__ import annotations

import importlib
import sys

import click

import whylight

COMMANDS = (
    "bench",
    "compare",
    "doctor",
    "explain",
    "health",
    "inspect",
    "methods",
    "models",
    "plugins",
    "serve",
    "synthesize",
    "token",
)


class Commands(click.Group):
    """A group whose commands are modules of this package, each with a function `command`."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Return the names of the commands."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Import one command, or return None when there is no such one."""
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"whylight.cli.{name}").command
        return command


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(whylight.__version__, "-V", "--version", prog_name="whylight")
def group() -> None:
    """Explain what PyTorch vision networks see, here or through a server."""


def main() -> None:
    """Run the command that the arguments name. Exit codes: 0 done, 1 failed, 2 wrongly called, 130 interrupted."""
    from whylight.cli.failing import explain_failure

    try:
        code = group.main(prog_name="whylight", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except Exception as error:
        lines = explain_failure(error)
        if lines is None:
            raise
        for line in lines:
            click.echo(f"whylight: {line}", err=True)
        sys.exit(1)
    sys.exit(code if isinstance(code, int) else 0)
