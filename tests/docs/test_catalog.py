"""The catalog is whole and true: a page, notes and a picture for every method, and examples that run as they stand."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import click
import pytest
import skimage.data
from PIL import Image
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from generate_methods_page import GALLERY, INDEX, PAGES, PICTURES, undrawn
from method_page import Notes, kind
from test_examples import ADDRESS, commands, example, is_picture, python, whylight

from whylight.cli import group
from whylight.method import Attribution, Synthesis
from whylight.models import ModelConfig, open_model
from whylight.plugins import Plugins
from whylight.testing.server import running_server
from whylight_generative import GenerativeSource

PLUGINS = Plugins()
PLUGINS.load()
METHODS = sorted(name for name, one in PLUGINS.methods.items() if one.distribution.startswith("whylight "))
ATTRIBUTIONS = [name for name in METHODS if isinstance(PLUGINS.methods[name].method, Attribution)]
LONG = [name for name in METHODS if name not in ATTRIBUTIONS]
DRAWN = json.loads((PICTURES / "drawn.json").read_text())
MOST_BYTES = 6_000_000


@pytest.fixture
def folder(tmp_path):
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "cat.jpg")
    return tmp_path


def test_there_are_methods():
    assert {"grad-cam", "saliency", "rise", "lrp"} <= set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_a_page_that_others_lead_to(name):
    text = (PAGES / f"{name}.md").read_text()
    method = PLUGINS.methods[name].method
    assert text.startswith(f"# {name}\n")
    assert method.summary() in text
    assert all(f"| `{option}` |" in text for option in method.Options.model_fields)
    assert f"](methods/{name}.md)" in INDEX.read_text()


@pytest.mark.parametrize("name", ATTRIBUTIONS)
def test_every_attribution_is_in_the_gallery(name):
    assert f"](reference/methods/{name}.md)" in GALLERY.read_text()


@pytest.mark.parametrize("name", METHODS)
def test_every_docstring_says_when_and_when_not(name):
    notes = Notes.of(type(PLUGINS.methods[name].method))
    assert notes.summary.endswith(".")
    assert "\n" not in notes.summary
    assert notes.definition
    assert "`" in notes.definition or name not in ATTRIBUTIONS, "the definition has no formula"
    assert notes.use
    assert notes.avoid


def test_notes_are_told_apart_by_how_they_begin():
    class Method(Attribution):
        """What it is.

        `a + b`, the formula.

        More of it.

        Its check: "c" is c.

        Costs little.

        Use it here.

        Avoid it there.
        """

    assert Notes.of(Method) == Notes(
        summary="What it is.",
        definition="`a + b`, the formula.\n\nMore of it.",
        use="Use it here.",
        avoid="Avoid it there.",
        costs="Costs little.",
        checks='Its check: "c" is c.',
    )


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ({"type": "integer", "minimum": 1, "maximum": 5}, "integer >= 1, <= 5"),
        ({"type": "number", "exclusiveMinimum": 0}, "number > 0"),
        ({"enum": ["a", "b"], "type": "string"}, "`a`, `b`"),
        ({"anyOf": [{"type": "integer"}, {"type": "null"}]}, "integer or null"),
        ({"type": "array", "items": {"type": "string"}}, "list of text"),
        ({"$ref": "#/$defs/Side"}, "integer >= 1"),
    ],
)
def test_types_of_options_are_told_in_words(field, words):
    assert kind(field, {"Side": {"type": "integer", "minimum": 1}}) == words


def test_every_picture_is_there_and_together_they_are_small():
    attributions = {name: PLUGINS.methods[name] for name in ATTRIBUTIONS}
    assert attributions.keys() <= DRAWN["methods"].keys(), "run make gallery"
    assert undrawn(attributions, DRAWN) == []
    pictures = sorted(PICTURES.glob("*.webp"))
    assert all(is_picture(path) for path in pictures)
    assert sum(path.stat().st_size for path in pictures) < MOST_BYTES


def test_a_missing_picture_is_missed():
    drawn = {"methods": {}, "photos": {"nowhere": ["a", "b"]}}
    offered = {"nothing": PLUGINS.methods["grad-cam"], "grad-cam": PLUGINS.methods["grad-cam"]}
    assert undrawn(offered, drawn) == ["nothing", "all-nowhere"]
    refused = {"methods": {"nothing": {"refused": "why"}}, "photos": {}}
    assert undrawn(offered, refused) == ["nothing"], "another model has to be found for it"
    assert undrawn({"layers": PLUGINS.methods["layers"]}, {"methods": {}, "photos": {}}) == [], "it gives a table"


def test_every_command_of_the_catalog_parses(folder, monkeypatch):
    monkeypatch.chdir(folder)
    for name in ATTRIBUTIONS:
        lines = commands(PAGES / f"{name}.md")
        assert len(lines) == 1, name
        command = group.get_command(click.Context(group), lines[0][0])
        with command.make_context(lines[0][0], lines[0][1:]) as context:
            assert context.params["methods"] == (name,)


@pytest.mark.parametrize("name", LONG)
def test_every_command_of_long_work_parses(folder, monkeypatch, name):
    monkeypatch.chdir(folder)
    (line,) = commands(PAGES / f"{name}.md")
    with group.get_command(click.Context(group), line[0]).make_context(line[0], line[1:]) as context:
        assert context.params["method"] == name


@pytest.fixture(scope="module")
def studio(tmp_path_factory):
    """Return a folder with everything that the examples of long work name, all of it small."""
    place = tmp_path_factory.mktemp("studio")
    for name, picture in (("cat.jpg", "chelsea"), ("waves.jpg", "coffee"), ("digit.png", "moon")):
        Image.fromarray(getattr(skimage.data, picture)()).save(place / name)
    (place / "pictures").mkdir()
    for number in range(3):
        Image.fromarray(skimage.data.astronaut()[150 * number :][:200]).save(place / "pictures" / f"{number}.png")
    for name, source in (("vae", "vae:32"), ("decoder", "vae:32-decoder")):
        model = open_model(ModelConfig(name=name, source=source, weights="random:0"), {"vae": GenerativeSource})
        weights = {key: value.contiguous() for key, value in model.module.state_dict().items()}
        save_file(weights, place / f"{name}.safetensors")
    (place / "my_models.py").write_text(MY_MODELS)
    return place


MY_MODELS = """
from torch import nn
from whylight.models import Transform, wrap_module


class Density(nn.Module):
    def forward(self, images):
        return -images.square().flatten(1).mean(1, keepdim=True)


faces = nn.Sequential(nn.ConvTranspose2d(4, 3, 16), nn.Sigmoid())
faces = wrap_module(faces, name="faces", transform=Transform.plain((1, 1), 4), input_size=(1, 1))
density = wrap_module(Density(), name="density", transform=Transform.plain((224, 224), 3))
"""


@pytest.mark.parametrize("name", LONG)
def test_every_example_of_long_work_runs(studio, monkeypatch, capsys, name):
    """With one step where there are steps: that they are enough is what the gallery shows."""
    monkeypatch.chdir(studio)
    monkeypatch.syspath_prepend(studio)
    (studio / "made.png").unlink(missing_ok=True)
    code = re.sub(r'"steps": \d+', '"steps": 1', example(PAGES / f"{name}.md", "process"))
    exec(compile(code, name, "exec"), {})
    printed = capsys.readouterr().out
    if isinstance(PLUGINS.methods[name].method, Synthesis):
        assert re.match(r"\{'\w+': [-\d.]", printed)
        assert is_picture(studio / "made.png")
    else:
        assert printed.startswith("['")


@pytest.mark.parametrize("name", ["grad-cam", "integrated-gradients"])
def test_the_example_for_one_process(folder, name):
    printed = python(example(PAGES / f"{name}.md", "process"), folder)
    assert printed.startswith("tabby {")
    checks = json.loads(printed.removeprefix("tabby ").replace("'", '"'))
    text = (PAGES / f"{name}.md").read_text()
    assert all(f'"{check}"' in text for check in checks), "the page does not explain a check of the answer"
    assert is_picture(folder / "why.png")


def test_the_other_examples(folder):
    page = PAGES / "grad-cam.md"
    whylight(example(page, "shell"), folder)
    assert is_picture(folder / "why.png")
    with running_server() as server:
        assert ADDRESS in example(page, "client")
        assert python(example(page, "client").replace(ADDRESS, server.address), folder).startswith("tabby {")
