"""Fixtures of the command line's tests: a way to call it, and the client's fake server."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "client"))  # fake_server lives with the client's tests

from fake_server import FakeServer

from whylight.cli import main


@pytest.fixture
def whylight_command(capsys, monkeypatch):
    """Return a function that runs the command line in this process and returns code, out and err."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["whylight", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            main()
        out, err = capsys.readouterr()
        return SimpleNamespace(code=exit_.value.code, out=out, err=err)

    return run


@pytest.fixture
def server():
    with FakeServer() as server:
        yield server


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "cat.png"
    Image.effect_noise((40, 30), 60).convert("RGB").save(path)
    return path
