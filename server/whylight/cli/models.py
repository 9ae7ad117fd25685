"""``whylight models``: which models there are, and what one consists of; loads one only when it is named."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from whylight.cli.parameters import connect, json_option, server_options

if TYPE_CHECKING:
    from whylight.client.catalog import ModelInfo


@click.command("models")
@click.argument("name", required=False)
@server_options()
@json_option
def command(name: str | None, server: str | None, tls: bool, ca: str | None, as_json: bool) -> None:
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


def _list(models: list[ModelInfo]) -> None:
    from whylight.cli import printing

    rows = [
        (
            f"{model.name} *" if model.default else model.name,
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
    columns = ("model", "source", "input", "classes", "parameters", "precision", "device", "last spatial layer")
    printing.print_table(columns, rows)


def _describe(model: ModelInfo) -> None:
    from whylight.cli import printing

    facts = (
        ("source", model.source),
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
