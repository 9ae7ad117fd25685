"""The page on TLS and tokens, as it stands: its commands make the files, and the server and clients take them."""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from test_examples import ROOT, example, python, whylight

import whylight as library
from whylight.client import tls_credentials
from whylight.errors import Unauthenticated, Unavailable
from whylight.testing.server import running_server

PAGE = ROOT / "docs" / "how-to" / "run-behind-tls.md"
ADDRESS = "localhost:50051"
TINY = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}
SMALL = {"models": [TINY], "worker": {"devices": ["cpu"], "threads": 1}, "plugins": {"only": ["cam"]}}


def shell(code: str, folder: Path) -> None:
    commands = re.sub(r"^whylight ", f"{shlex.quote(sys.executable)} -m whylight ", code, flags=re.MULTILINE)
    done = subprocess.run(["sh", "-ec", commands], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with the files that the page makes."""
    if shutil.which("openssl") is None:
        pytest.skip("needs the openssl command to make certificates")
    place = tmp_path_factory.mktemp("tls")
    for name in ("authority", "certificate", "tokens", "mutual"):
        shell(example(PAGE, name), place)
    settings = example(PAGE, "configuration").replace("0.0.0.0", "127.0.0.1")
    for name in ("server.pem", "server.key", "tokens.toml"):
        settings = settings.replace(f'"{name}"', f'"{place / name}"')
    (place / "whylight.toml").write_text(settings)
    Image.effect_noise((48, 40), 60).convert("RGB").save(place / "cat.jpg")
    return place


def serving(folder: Path, **settings):
    shown = tls_credentials(ca=folder / "ca.pem", certificate=folder / "ci.pem", key=folder / "ci.key")
    return running_server(config=str(folder / "whylight.toml"), credentials=shown, **SMALL, **settings)


def port_of(address: str) -> str:
    return f"localhost:{address.rpartition(':')[2]}"


@pytest.fixture(scope="module")
def server(folder):
    with serving(folder) as running:
        yield running


def test_the_page_from_openssl_to_a_working_client(folder, server):
    assert (folder / "ci.token").stat().st_mode & 0o077 == 0
    at = port_of(server.address)
    for line in example(PAGE, "commands").splitlines():
        printed = whylight(line.replace(ADDRESS, at), folder)
        assert "grad-cam" in printed or (folder / "why.png").exists()
    assert python(example(PAGE, "client").replace(ADDRESS, at), folder).strip() == "grad-cam"
    with library.Client(at, ca=folder / "ca.pem") as stranger, pytest.raises(Unauthenticated):
        stranger.methods()
    with library.Client(at, deadline=60, options={"grpc.enable_retries": 0}) as plain, pytest.raises(Unavailable):
        plain.methods()


def test_client_certificates(folder):
    tls = {name: str(folder / file) for name, file in (("certificate", "server.pem"), ("key", "server.key"))}
    with serving(folder, tls={**tls, "client_ca": str(folder / "ca.pem")}) as server:
        at = port_of(server.address)
        assert "grad-cam" in whylight(example(PAGE, "mutual commands").strip().replace(ADDRESS, at), folder)
        without = {"ca": folder / "ca.pem", "token": "x", "deadline": 60, "options": {"grpc.enable_retries": 0}}
        with library.Client(at, **without) as stranger, pytest.raises(Unavailable):
            stranger.methods()


def test_tokens_are_read_again_on_sighup(folder, server):
    """A new token is good, an old one no longer, without a restart."""
    at = port_of(server.address)
    old = (folder / "ci.token").read_text().strip()
    shell("whylight token new --name new --save new.token > tokens.toml", folder)
    with library.Client(at, ca=folder / "ca.pem", token=(folder / "new.token").read_text().strip()) as client:
        with pytest.raises(Unauthenticated):
            client.methods()
        server.signal(signal.SIGHUP)
        for _ in range(1000):  # the signal is on its way
            with contextlib.suppress(Unauthenticated):
                assert client.methods()
                break
    with library.Client(at, ca=folder / "ca.pem", token=old) as client, pytest.raises(Unauthenticated):
        client.methods()
    assert "1 tokens" in server.log


def test_the_page_names_only_files_that_it_makes(folder):
    made = set(os.listdir(folder))
    named = set(re.findall(r"[\w-]+\.(?:pem|token)", PAGE.read_text()))
    assert named <= made
