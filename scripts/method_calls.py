"""How a synthesis or an inspection is called, for its page in the catalog; runs nothing, and knows no page."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import whylight

MODEL = "demo:efficientnet-lite0"
SERVER = "127.0.0.1:50051"
WIDTH = 120


@dataclass(frozen=True)
class Call:
    """What a caller gives besides what the catalog says: options, names of other models and of data sets.

    With `made`, the models come from the caller's own code: lines of Python, and what they call `model` and the others.
    """

    options: Mapping[str, Any] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    data_sets: Mapping[str, str] = field(default_factory=dict)
    target: int = 281
    picture: str = "cat.jpg"
    made: str = ""
    model: str = ""


_VAE = """\
from whylight.models import ModelConfig, open_model
from whylight_generative import GenerativeSource

sources = {"vae": GenerativeSource}
vae = open_model(ModelConfig(name="vae", source="vae:32", weights="vae.safetensors"), sources)
"""
_DECODER = (
    'decoder = open_model(ModelConfig(name="decoder", source="vae:32-decoder", weights="decoder.safetensors"), sources)'
    "\n"
)

CALLS: dict[str, Call] = {
    "activation-maximization": Call({"steps": 128}),
    "activation-maximization-code": Call(
        {"steps": 80, "generator": "faces"},
        others={"faces": "faces"},
        target=837,
        made="from my_models import faces  # a whylight.Model that takes codes [D, 1, 1] and gives pictures\n",
    ),
    "activation-maximization-expert": Call(
        {"steps": 128, "expert": "density"},
        others={"density": "density"},
        made="from my_models import density  # a whylight.Model that gives the log of a density\n",
    ),
    "caricature": Call({"steps": 128, "layer": "blocks.10"}),
    "deepdream": Call({"steps": 10, "layer": "blocks.8"}),
    "feature-inversion": Call({"steps": 160, "layer": "blocks.4"}),
    "fooling-image": Call({"steps": 100}),
    "maco": Call({"steps": 256}),
    "style-transfer": Call({"steps": 150}),
    "texture-synthesis": Call({"steps": 250}, picture="waves.jpg"),
    "activations": Call({"layer": "blocks.4"}),
    "filters": Call(),
    "layers": Call(),
    "predictions": Call(),
    "top-patches": Call({"data_set": "photos", "channel": 5}, data_sets={"photos": "pictures"}),
    "latent-traversal": Call(
        {"decoder": "decoder", "latents": [0, 1]},
        others={"decoder": "decoder"},
        picture="digit.png",
        made=_VAE + _DECODER,
        model="vae",
    ),
    "latent-map": Call({"data_set": "photos"}, data_sets={"photos": "pictures"}, made=_VAE, model="vae"),
    "reconstruction": Call(picture="digit.png", made=_VAE, model="vae"),
}
"""Of the bundled methods. Those that are not here have no example."""

_PICTURES = {"style": "waves.jpg", "texture": "waves.jpg"}


def examples(method: whylight.Method) -> Iterator[str]:
    """Yield an example for the command line and one for Python; nothing for a method that has none."""
    call = CALLS.get(method.name)
    if call is not None:
        yield f"<!-- example: shell -->\n```\n{_command(method, call)}\n```"
        yield f"<!-- example: process -->\n```python\n{_python(method, call)}\n```"
        client = "synthesize" if isinstance(method, whylight.Synthesis) else "inspect"
        yield f"`whylight.Client` has the same in `{client}`, which yields progress and then what came of it."


def _pictures(method: whylight.Method, call: Call) -> list[str]:
    return [_PICTURES.get(name, call.picture) for name in method.takes if name[-1] not in "?*"]


def _targeted(method: whylight.Method) -> bool:
    return method.target_use() in (whylight.TargetUse.REQUIRED, whylight.TargetUse.BY_OPTIONS)


def _command(method: whylight.Method, call: Call) -> str:
    pictures = _pictures(method, call)
    flags = "".join(f" -O {name}={_text(value)}" for name, value in call.options.items())
    # What is made by the caller's own code is served under a name: no command line could open it.
    served = f" --server {SERVER}" if call.made else ""
    model = f" -m {call.model}" if call.model else ""
    if isinstance(method, whylight.Synthesis):
        given = "".join(f" --picture {picture}" for picture in pictures)
        target = f" -t {call.target}" if _targeted(method) else ""
        return f"whylight synthesize {method.name}{target}{given}{model}{flags}{served} -o made.png"
    data = "" if served else "".join(f" --data-set {name}={path}" for name, path in call.data_sets.items())
    given = "".join(f" {picture}" for picture in pictures)
    return f"whylight inspect {method.name}{given}{model}{flags}{data}{served} -o inside"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))


def _python(method: whylight.Method, call: Call) -> str:
    pictures = [json.dumps(picture) for picture in _pictures(method, call)]
    given = pictures[0] if len(pictures) == 1 else f"[{', '.join(pictures)}]"
    arguments = [call.model or json.dumps(MODEL), json.dumps(method.name)]
    arguments += [str(call.target)] if _targeted(method) else []
    arguments += [f"pictures={given}"] if pictures else []
    arguments += [f"options={json.dumps(call.options)}"] if call.options else []
    if call.others:
        arguments.append(f"others={{{', '.join(f'{json.dumps(name)}: {made}' for name, made in call.others.items())}}}")
    if call.data_sets:
        arguments.append(f"data_sets={json.dumps(call.data_sets)}")
    head = f"import whylight\n{call.made}\n"
    if isinstance(method, whylight.Synthesis):
        made = _called("result = whylight.synthesise", arguments)
        return f'{head}{made}\nprint(result.explanation.checks)\nresult.explanation.save("made.png")'
    made = _called("found = whylight.inspect", arguments)
    return f"{head}{made}\nprint([artifact.name for artifact in found.artifacts], found.checks)"


def _called(function: str, arguments: list[str]) -> str:
    """Return a call as ruff formats it: what is too long for a line has a line of its own, or one for each argument."""
    together = ", ".join(arguments)
    if len(function) + len(together) + 2 <= WIDTH:
        return f"{function}({together})"
    if len(together) + 4 <= WIDTH:
        return f"{function}(\n    {together}\n)"
    return f"{function}(" + "".join(f"\n    {one}," for one in arguments) + "\n)"
