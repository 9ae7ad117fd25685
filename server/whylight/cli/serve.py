"""``whylight serve``: reads the settings and starts the server; knows nothing of how it serves."""

from __future__ import annotations

from typing import Any

import click


@click.command("serve")
@click.option("--config", type=click.Path(dir_okay=False), help="TOML file with the settings; flags win over it.")
@click.option("--host", help="Address to listen on. 127.0.0.1 when left out.")
@click.option(
    "--port", type=click.IntRange(0, 65535), help="Port to listen on. 50051 when left out; 0 lets the system choose."
)
@click.option(
    "--model",
    "models",
    multiple=True,
    metavar="[NAME=]SOURCE",
    help="Model to serve, such as torchvision:resnet50; its name is what follows the colon, or NAME. Repeatable; the "
    "first is the default one. In place of the models of the file.",
)
@click.option("--device", "devices", multiple=True, help="Device of a worker, such as cuda:0. Repeatable.")
def command(
    config: str | None, host: str | None, port: int | None, models: tuple[str, ...], devices: tuple[str, ...]
) -> int:
    """Serve explanations until SIGTERM or SIGINT."""
    from whylight.hang_up import ignore_hang_up

    ignore_hang_up()  # before the imports, which take their time

    from whylight.serve import main
    from whylight.settings import ConfigurationError, load_settings

    overrides: dict[str, Any] = {}
    server = {key: value for key, value in (("host", host), ("port", port)) if value is not None}
    if server:
        overrides["server"] = server
    if models:
        overrides["models"] = [_model(text) for text in models]
    if devices:
        overrides["worker"] = {"devices": list(devices)}
    try:
        settings = load_settings(config, overrides)
    except ConfigurationError as error:
        raise click.UsageError(str(error)) from None
    return main(settings, lambda: load_settings(config, overrides))


def _model(text: str) -> dict[str, str]:
    name, equals, source = text.partition("=")
    if not equals:
        name, source = text.partition(":")[2], text
    if not name or ":" not in source:
        raise click.BadParameter(f"{text!r} is not SCHEME:NAME, such as torchvision:resnet50", param_hint="--model")
    return {"name": name, "source": source}
