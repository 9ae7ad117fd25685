"""``whylight models``: which models there are, what one consists of, and a server's administration of them.

A model is loaded here only when it is named.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from whylight.cli import model_control
from whylight.cli.parameters import connect, json_option, server_options

if TYPE_CHECKING:
    from whylight.client.catalog import ModelInfo


class _Models(click.Group):
    """A group whose command `show` is meant where no other one is named: ``whylight models`` and ``… models NAME``."""

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        """Put the command before the arguments, if it was left out."""
        if not args or (args[0] not in self.commands and args[0] not in context.help_option_names):
            args = ["show", *args]
        return super().parse_args(context, args)


@click.group("models", cls=_Models)
def command() -> None:
    """Show the models there are, or change those of a running server.

    Without a command, as `show`: whylight models [NAME] [--server HOST:PORT].
    """


@command.command("show")
@click.argument("name", required=False)
@server_options()
@json_option
def show(name: str | None, server: str | None, tls: bool, ca: str | None, as_json: bool) -> None:
    """List the models of a server, or describe the model NAME with its layers.

    Without --server, lists where models may come from; NAME is then a source, such as torchvision:resnet50, which is
    opened to describe it.
    """
    from whylight.cli import local, printing

    if name:
        if server:
            with connect(server, tls, ca) as client:
                model = client.model(name)
        else:
            with printing.waiting(f"opening {name}"):
                model = local.local_model(name)
        printing.print_json(asdict(model)) if as_json else _describe(model)
    elif server:
        with connect(server, tls, ca) as client:
            models = client.models()
        if as_json:
            left_out = ("labels", "layers")
            printing.print_json([{k: v for k, v in asdict(model).items() if k not in left_out} for model in models])
        else:
            _list(models)
    else:
        with printing.waiting("loading plugins"):
            sources = local.local_sources()
        if as_json:
            printing.print_json([{"scheme": scheme, "plugin": plugin} for scheme, plugin in sources])
        else:
            printing.print_table(("source", "plugin"), [(f"{scheme}:…", plugin) for scheme, plugin in sources])
            click.echo("\nwhylight models SOURCE:NAME describes one; whylight serve --model SOURCE:NAME serves it.")


for one in (model_control.status, model_control.load, model_control.unload, model_control.reload):
    command.add_command(one)


def _list(models: list[ModelInfo]) -> None:
    from whylight.cli import printing

    rows = [
        (
            f"{model.name} *" if model.default else model.name,
            model.state,
            model.source,
            f"{model.input_size[0]} x {model.input_size[1]}",
            model.class_count,
            f"{model.parameter_count / 1e6:.1f} M",
            model.precision,
            model.device,
            model.last_spatial_layer,
        )
        for model in models
    ]
    columns = (
        "model",
        "state",
        "source",
        "input",
        "classes",
        "parameters",
        "precision",
        "device",
        "last spatial layer",
    )
    printing.print_table(columns, rows)


def _describe(model: ModelInfo) -> None:
    from whylight.cli import printing

    facts = (
        ("source", model.source),
        ("state", f"{model.state}{f', version {model.generation}' if model.generation else ''}"),
        ("digest", model.digest),
        ("input", f"{model.input_channels} x {model.input_size[1]} x {model.input_size[0]} (channels, height, width)"),
        ("classes", f"{model.class_count}{', with labels' if model.labels else ''}"),
        ("parameters", f"{model.parameter_count:,}"),
        ("precision", model.precision),
        ("device", model.device),
        ("last spatial layer", model.last_spatial_layer or "none"),
        ("offers", ", ".join(model.capabilities)),
        ("same bits in any batch", model.batch_invariant),
    )
    printing.print_table((model.name, ""), facts)
    click.echo()
    rows = [
        (layer.name, layer.type, " x ".join(map(str, layer.output_shape)), layer.parameter_count)
        for layer in model.layers
    ]
    printing.print_table(("layer", "type", "output", "parameters"), rows)
