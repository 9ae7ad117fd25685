"""The options that several commands share, and how their values are read; runs nothing."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import click

from whylight.errors import InvalidInput
from whylight.priority import Priority
from whylight.target import (
    ClassIndex,
    ClassLabel,
    Contrast,
    Detection,
    Latent,
    Neuron,
    OutputIndex,
    Rank,
    Region,
    Similarity,
    Target,
)

if TYPE_CHECKING:
    from whylight.client import Client

Command = TypeVar("Command", bound=Callable[..., Any])

TOKEN = "WHYLIGHT_TOKEN"
"""Environment variable with the bearer token for servers; an argument would be seen by everybody on the machine."""


def read_key_value(text: str) -> tuple[str, Any]:
    """Read an option of a method, ``key=value``; the value is JSON, or else text.

    Raises:
        BadParameter: it is not key=value.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise click.BadParameter(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value, parse_constant=_no_constant)
    except ValueError:
        return key, value


def read_target(text: str) -> Target:
    """Read what to explain: an index, a label, or one of the forms of `_FORMS`.

    Raises:
        BadParameter: a number is missing or is none.
    """
    kind, colon, rest = text.partition(":")
    try:
        if colon and kind in _FORMS:
            return _FORMS[kind](rest)
        return ClassIndex(int(text)) if text.isdecimal() else ClassLabel(text)
    except ValueError:
        raise click.BadParameter(f"{text!r} is no target; see --help for the forms") from None
    except (InvalidInput, OSError) as error:
        raise click.BadParameter(f"{text!r}: {error}") from None


def _neuron(text: str) -> Neuron:
    layer, channel, *position = text.split(":")
    return Neuron(layer, int(channel), tuple(int(index) for part in position for index in part.split(",")))


def _contrast(text: str) -> Contrast:
    positive, negative = text.split("/")
    return Contrast(read_target(positive), read_target(negative))  # type: ignore[arg-type]  # it refuses other kinds


def _box(text: str) -> tuple[float, float, float, float]:
    left, top, right, bottom = map(float, text.split(","))
    return left, top, right, bottom


def _region(text: str) -> Region:
    class_index, _, part = text.partition(":")
    if not part:
        return Region(int(class_index))
    if "," in part:
        return Region(int(class_index), *_box(part))
    import numpy as np
    from PIL import Image

    with Image.open(part) as picture:
        marked: Any = np.asarray(picture.convert("L")) > 0
    return Region(int(class_index), mask=marked)


def _detection(text: str) -> Detection:
    class_index, _, box = text.partition(":")
    return Detection(None if class_index == "any" else int(class_index), *_box(box))


def _similarity(text: str) -> Similarity:
    file, at, layer = (text, "", "") if os.path.exists(text) else text.rpartition("@")
    file = file if at else text
    layer = layer if at else ""
    if file.endswith(".npy"):
        import numpy as np

        numbers: Any = np.load(file, allow_pickle=False)
        return Similarity(embedding=numbers, layer=layer)
    path: Any = file
    return Similarity(path, layer=layer)


_FORMS: dict[str, Callable[[str], Target]] = {
    "label": ClassLabel,
    "rank": lambda text: Rank(int(text)),
    "latent": lambda text: Latent(int(text)),
    "output": lambda text: OutputIndex(tuple(int(index) for index in text.split(","))),
    "neuron": _neuron,
    "contrast": _contrast,
    "region": _region,
    "detection": _detection,
    "similarity": _similarity,
}

target_option = click.option(
    "-t",
    "--target",
    "targets",
    type=read_target,
    metavar="TARGET",
    multiple=True,
    help="What to explain: a class index, a label, rank:K, latent:K, output:I,J,…, neuron:LAYER:CHANNEL[:Y,X], "
    "contrast:A/B (why A rather than B, each an index, a label, rank:K or output:I,J,…), region:CLASS[:L,T,R,B or "
    "MASK.png] and detection:CLASS|any:L,T,R,B (edges as fractions), similarity:FILE[@LAYER] (a picture, or an "
    "embedding in an .npy), or label:TEXT. Repeatable. The top prediction when left out.",
)
companion_option = click.option(
    "--companion",
    "companions",
    type=read_key_value,
    metavar="NAME=NUMBERS",
    multiple=True,
    help="What the model takes besides the picture, such as question=[3,1]; the numbers are JSON. Repeatable.",
)
method_option = click.option(
    "-M", "--method", "methods", multiple=True, default=["grad-cam"], show_default=True, help="Method. Repeatable."
)
model_option = click.option("-m", "--model", default="", help="Model. The default one when left out.")
options_option = click.option(
    "-O",
    "--option",
    "options",
    type=read_key_value,
    metavar="KEY=VALUE",
    multiple=True,
    help="Option of the methods; the value is read as JSON, or else as text. Repeatable.",
)


def named_option(flag: str, metavar: str, help: str) -> Callable[[Command], Command]:
    """Return an option that is read as ``NAME=VALUE`` and gives a dictionary of all that were given."""

    def read(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> dict[str, str]:
        pairs = [value.partition("=") for value in values]
        for name, sign, rest in pairs:
            if not (name and sign and rest):
                raise click.BadParameter(f"{name + sign + rest!r} is not {metavar}")
        return {name: rest for name, _, rest in pairs}

    return click.option(flag, multiple=True, metavar=metavar, callback=read, help=help)


other_option = named_option(
    "--other", "NAME=SOURCE", "Second model that a method's options name; without --server only. Repeatable."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON for machines.")


PRIORITY = "whylight.priority"
"""Where click keeps how urgent a call is."""

CREDENTIALS = "whylight.credentials"
"""Where click keeps the rarer options of a connection, so that not every command has to pass them on."""


@dataclass
class Credentials:
    """What a caller shows to a server: files of a token, a certificate and its key."""

    token_file: str | None = None
    cert: str | None = None
    key: str | None = None


def server_options(
    *,
    required: bool = False,
    name: str = "--server",
    metavar: str = "HOST:PORT",
    help: str = "Server to ask.",
    envvar: str | None = None,
) -> Callable[[Command], Command]:
    """Add the options that say which server to ask, and how; the first of them is called `name`."""
    file = click.Path(exists=True, dir_okay=False)

    def add(command: Command) -> Command:
        for option in (
            _credential("--key", file, "PEM file of your certificate's private key."),
            _credential("--cert", file, "PEM file of your certificate, for servers that ask for one; means --tls."),
            _credential(
                "--token-file", file, f"File with your bearer token; {TOKEN} in the environment may hold it too."
            ),
            click.option("--ca", type=file, help="PEM file of the authorities to trust; means --tls."),
            click.option("--tls", is_flag=True, help="Encrypt."),
            click.option(name, metavar=metavar, required=required, help=help, envvar=envvar),
        ):
            command = option(command)
        return command

    return add


def _credential(name: str, file: click.Path, help: str) -> Callable[[Command], Command]:
    def keep(context: click.Context, parameter: click.Parameter, value: str | None) -> None:
        setattr(context.meta.setdefault(CREDENTIALS, Credentials()), str(parameter.name), value)

    return click.option(name, type=file, expose_value=False, callback=keep, help=help)


def given_credentials() -> Credentials:
    """Return those that the running command was given."""
    context = click.get_current_context(silent=True)
    found: Credentials | None = context.meta.get(CREDENTIALS) if context else None
    return found or Credentials()


def priority_option(command: Command) -> Command:
    """Add the option that says how urgent a call is; like the rarer ones of a connection, it is kept aside."""

    def keep(context: click.Context, parameter: click.Parameter, value: str) -> None:
        context.meta[PRIORITY] = value

    return click.option(
        "--priority",
        type=click.Choice([one.value for one in Priority]),
        default=Priority.INTERACTIVE.value,
        show_default=True,
        expose_value=False,
        callback=keep,
        help="How urgent it is to a server: bulk work is served beside interactive calls, by a share.",
    )(command)


def given_priority() -> Priority:
    """Return the one that the running command was given."""
    context = click.get_current_context(silent=True)
    return Priority(context.meta.get(PRIORITY, Priority.INTERACTIVE.value) if context else Priority.INTERACTIVE)


def connect(server: str, tls: bool, ca: str | None, **keywords: Any) -> Client:
    """Return a client of the server that the options name."""
    from whylight.client import Client

    return Client(server, **connection_settings(server, tls, ca), **keywords)


def connection_settings(
    server: str, tls: bool, ca: str | None, credentials: Credentials | None = None
) -> dict[str, Any]:
    """Return the settings of a client for the server that the options name.

    `credentials` are those of the running command when left out; a process that has none is given them.

    Raises:
        UsageError: the options do not go together, or a token would travel in the clear.
    """
    from whylight.client import tls_credentials, token_from_file
    from whylight.client.connection import is_local

    shown = credentials or given_credentials()
    if (shown.cert is None) != (shown.key is None):
        raise click.UsageError("--cert and --key come together")
    token: str | Callable[[], str] | None = os.environ.get(TOKEN) or None
    if shown.token_file:
        token = token_from_file(shown.token_file)
        try:
            token()
        except (OSError, ValueError) as error:
            raise click.BadParameter(str(error), param_hint="--token-file") from None
    encrypted = tls or ca is not None or shown.cert is not None
    if token and not encrypted and not is_local(server):
        raise click.UsageError(f"the token would travel to {server} in the clear; add --tls")
    trusted = tls_credentials(ca=ca, certificate=shown.cert, key=shown.key) if encrypted else None
    return {"credentials": trusted, "token": token}


def as_dictionary(options: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Return the options of methods as a dictionary; the last of equal keys holds."""
    return dict(options)


def _no_constant(name: str) -> float:
    """Refuse NaN and Infinity, which JSON does not have: they are text then, and the method says what it wants."""
    raise ValueError(f"{name} is not JSON")
