"""The page about upgrades: its configuration is one, its commands and its code do what it says."""

from __future__ import annotations

import shlex
from pathlib import Path

import torch
from safetensors.torch import save_file
from test_examples import ROOT, example, folder, python, whylight

from whylight.models import ModelConfig, open_model
from whylight.testing.networks import conv_gap_net
from whylight.testing.server import running_server

PAGE = ROOT / "docs" / "how-to" / "upgrade-with-no-lost-call.md"
SOCKET = "/run/whylight/admin.sock"
__all__ = ["folder"]


def test_weights_are_changed_in_the_file_and_reloaded_by_command_and_by_program(folder: Path) -> None:
    socket = str(folder / "admin.sock")
    config = folder / "whylight.toml"
    digests = {}
    for number in (1, 2, 3):
        weights = folder / f"tumours-{number}.safetensors"
        save_file(conv_gap_net(number).state_dict(), weights)
        source = "python:whylight.testing.networks:conv_gap_net"
        model = ModelConfig(name="tumours", source=source, weights=str(weights))
        digests[number] = open_model(model, {}, torch.device("cpu")).digest

    def write(number: int) -> None:
        text = example(PAGE, "configuration").replace(SOCKET, socket)
        text = text.replace("torchvision:resnet18", source)
        config.write_text(text.replace("/srv/models/tumours-1", str(folder / f"tumours-{number}")))

    write(1)
    with running_server(
        config=str(config), worker={"threads": 1, "devices": ["cpu"]}, plugins={"only": ["cam"]}
    ) as server:
        write(2)
        reload, status = example(PAGE, "reload").replace(SOCKET, socket).splitlines()
        assert whylight(reload, folder).splitlines()[-1] == "tumours: ready version 2"
        assert digests[2][:19] in whylight(status, folder)
        write(3)
        printed = python(example(PAGE, "program").replace(SOCKET, socket), folder)
        assert printed.splitlines()[-1] == digests[3]
        code = example(PAGE, "stream").replace("127.0.0.1:50051", server.address)
        assert python(code, folder) == "['again', 'cat']\n"


def test_the_commands_of_the_page_are_the_servers() -> None:
    for line in example(PAGE, "reload").splitlines():
        assert shlex.split(line)[:2] == ["whylight", "models"]
