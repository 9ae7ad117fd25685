"""The pages are true: their code runs as it stands, their commands parse, and their links lead somewhere."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import skimage.data
from PIL import Image

from whylight.cli import group
from whylight.testing.server import running_server

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
TUTORIAL = ROOT / "docs" / "tutorial" / "first-explanation.md"
ADDRESS = "127.0.0.1:50051"
HIDDEN = {"build", "dist", "node_modules", "shared"}
PAGES = sorted(
    page
    for page in ROOT.rglob("*.md")
    if not any(part.startswith(".") or part in HIDDEN for part in page.relative_to(ROOT).parts)
)


def example(page: Path, name: str) -> str:
    """Return the block of code that follows ``<!-- example: name -->``."""
    blocks = dict(
        re.findall(r"^<!-- example: ([\w ]+) -->\n```\w*\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    )
    return blocks[name]


def commands(page: Path) -> list[list[str]]:
    """Return every whylight command of a page's blocks, as arguments, without comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    lines = [
        shlex.split(line, comments=True)
        for block in blocks
        for line in block.splitlines()
        if re.match("whylight ", line)
    ]
    return [line[1:] for line in lines]


def python(code: str, folder: Path) -> str:
    """Run code in a process of its own, as a reader would, and return what it prints."""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def whylight(arguments: str | list[str], folder: Path) -> str:
    """Run one command in a process of its own and return what it prints."""
    words = shlex.split(arguments)[1:] if isinstance(arguments, str) else arguments
    done = subprocess.run([sys.executable, "-m", "whylight", *words], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def is_picture(path: Path) -> bool:
    """Whether a file is a picture in more than its name."""
    with Image.open(path) as picture:
        picture.load()
        return min(picture.size) > 100


@pytest.fixture(scope="module")
def server():
    with running_server() as running:
        yield running


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with cat.jpg."""
    Image.fromarray(skimage.data.chelsea()).save(tmp_path / "cat.jpg")
    return tmp_path


def test_the_client_of_the_readme(server, folder):
    code = example(README, "client")
    assert ADDRESS in code
    printed = python(code.replace(ADDRESS, server.address), folder)
    assert "cat" in printed
    assert "Box(" in printed
    assert is_picture(folder / "why.png")


def test_the_module_of_the_readme(folder):
    printed = python(example(README, "module"), folder)
    assert re.fullmatch(r"\(7, 7\) -?\d+\.\d+\n", printed)


def test_the_tutorial_from_top_to_bottom(server, tmp_path):
    python(example(TUTORIAL, "photo"), tmp_path)
    whylight(example(TUTORIAL, "shell"), tmp_path)
    assert is_picture(tmp_path / "why.png")
    printed = python(example(TUTORIAL, "python"), tmp_path)
    assert "tiger cat" in printed
    assert "Egyptian cat" in printed
    assert (tmp_path / "tiger-cat.png").read_bytes() != (tmp_path / "Egyptian-cat.png").read_bytes()
    assert example(TUTORIAL, "serve").split() == ["whylight", "serve"]
    python(example(TUTORIAL, "client").replace(ADDRESS, server.address), tmp_path)
    assert is_picture(tmp_path / "grad-cam.png")
    assert is_picture(tmp_path / "saliency.png")
    listed, explained = example(TUTORIAL, "remote shell").replace(ADDRESS, server.address).splitlines()
    assert "layer-cam" in whylight(listed, tmp_path)
    whylight(explained, tmp_path)
    assert is_picture(tmp_path / "served.png")


def test_a_server_is_by_default_where_the_pages_look_for_it():
    from whylight.settings.server import ServerSettings

    settings = ServerSettings()
    assert f"{settings.host}:{settings.port}" == ADDRESS


@pytest.mark.parametrize(
    "arguments",
    [["--help"], *(command for page in (README, TUTORIAL) for command in commands(page))],
    ids=" ".join,
)
def test_every_command_parses(arguments, folder, monkeypatch):
    """Click reads the whole line before it runs a command: here nothing is run."""
    monkeypatch.chdir(folder)
    if arguments == ["--help"]:
        assert "explain" in whylight(arguments, folder)
        return
    command = group.get_command(click.Context(group), arguments[0])
    assert command is not None
    with command.make_context(arguments[0], arguments[1:]):
        pass


def test_the_pages_have_commands_to_parse():
    assert ["serve"] in commands(README)
    assert ["serve"] in commands(TUTORIAL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_somewhere(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"\w+:", target):
            continue
        path, _, heading = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert linked.is_relative_to(ROOT), f"{page.name} links out of the repository: {target}"
        if heading and linked.suffix == ".md":
            assert heading in anchors(linked), f"{page.name} links to {target}"


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives a page's headings: those that come again are numbered."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    bare = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
    return {f"{name}-{bare[:n].count(name)}" if name in bare[:n] else name for n, name in enumerate(bare)}
