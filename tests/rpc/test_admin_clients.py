"""AdminClient and ``whylight models status|load|unload|reload``, against a listener for administrators."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path

import click
import pytest
from admin_serving import Administered, administering, choice
from click.testing import CliRunner, Result

import whylight
from whylight.cli.models import command
from whylight.client import ModelStatus, ModelWorker
from whylight.errors import NotFound, Unsupported


@pytest.fixture
async def administered(tmp_path: Path) -> AsyncIterator[Administered]:
    async with administering(tmp_path, choice("net"), choice("late", load=False)) as served:
        served.pool.up(0, net="a")
        yield served


@contextlib.asynccontextmanager
async def client_of(served: Administered) -> AsyncIterator[whylight.AdminClient]:
    with whylight.AdminClient(served.address) as client:
        yield client


async def cli(*arguments: str, **environment: str) -> Result:
    return await asyncio.to_thread(CliRunner(env=environment).invoke, command, arguments)


async def test_the_client_says_what_became_of_each_model(administered: Administered) -> None:
    async with client_of(administered) as client:
        late, net = await asyncio.to_thread(client.models)
    assert late == ModelStatus(
        "late", "unloaded", "demo:x", "", 0, None, 0, 0, (ModelWorker(0, "cpu:0", True, ()),), None
    )
    assert (net.name, net.state, net.digest, net.generation) == ("net", "ready", "digest of a", 1)
    assert net.workers == (ModelWorker(0, "cpu:0", True, (1,)),)
    assert net.ready_time is not None
    assert net.ready_time.tzinfo is not None


async def test_the_client_loads_reloads_and_unloads_and_tells_meanwhile(administered: Administered) -> None:
    told: list[ModelStatus] = []
    async with client_of(administered) as client:
        loaded = await asyncio.to_thread(client.load, "late", on_status=told.append)
        assert (loaded.state, loaded.generation) == ("ready", 1)
        assert (told[0].state, told[-1]) == ("loading", loaded)
        administered.file["net"] = choice("net", "b")
        reloaded = await asyncio.to_thread(client.reload, "net")
        assert (reloaded.digest, reloaded.generation) == ("digest of b", 2)
        unloaded = await asyncio.to_thread(client.unload, "net")
        assert (unloaded.state, unloaded.workers[0].generations) == ("unloaded", ())


async def test_the_client_raises_what_the_server_says(administered: Administered) -> None:
    administered.pool.failures["broken"] = Unsupported("no memory", reason="OUT_OF_MEMORY")
    administered.file["net"] = choice("net", "broken")
    async with client_of(administered) as client:
        with pytest.raises(NotFound) as unknown:
            await asyncio.to_thread(client.load, "nett")
        assert unknown.value.reason == "MODEL_NOT_FOUND"
        with pytest.raises(Unsupported, match="no memory") as failed:
            await asyncio.to_thread(client.reload, "net")
        assert (failed.value.reason, failed.value.metadata["cause"]) == ("MODEL_LOAD_FAILED", "OUT_OF_MEMORY")
        (_, net) = await asyncio.to_thread(client.models)
        assert (net.state, net.error.reason) == ("ready", "MODEL_LOAD_FAILED")


def test_a_token_never_travels_in_the_clear() -> None:
    with pytest.raises(ValueError, match="in the clear"):
        whylight.AdminClient("models.example.org:50052", token="secret")


async def test_the_command_line_does_the_same(administered: Administered) -> None:
    at = ("--admin", administered.address)
    shown = (await cli("status", *at)).output
    assert "net    ready" in shown
    assert "late   unloaded" in shown
    loaded = await cli("load", "late", *at)
    assert loaded.exit_code == 0
    assert loaded.output.splitlines()[0].startswith("late: loading")
    assert loaded.output.splitlines()[-1] == "late: ready version 1"
    administered.file["net"] = choice("net", "b")
    reloaded = await cli("reload", "net", "--json", WHYLIGHT_ADMIN_ADDRESS=administered.address)
    assert json.loads(reloaded.output)["generation"] == 2
    assert (await cli("unload", "net", *at)).output.splitlines()[-1].startswith("net: unloaded")
    states = {model["name"]: model["state"] for model in json.loads((await cli("status", *at, "--json")).output)}
    assert states == {"late": "ready", "net": "unloaded"}


async def test_the_command_line_fails_with_the_servers_words(administered: Administered) -> None:
    failed = await cli("unload", "nett", "--admin", administered.address)
    assert isinstance(failed.exception, NotFound)
    wrong = await cli("status", "--admin", administered.address.removeprefix("unix:"))
    assert wrong.exit_code == 2
    assert "is written unix:" in wrong.output


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], "show"),
        (["--server", "x:1"], "show"),
        (["net"], "show"),
        (["show", "load"], "show"),
        (["load", "net"], "load"),
    ],
)
def test_a_name_is_shown_and_a_command_is_done(
    arguments: list[str], shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[str] = []
    for verb in ("show", "load"):
        monkeypatch.setattr(command.commands[verb], "callback", lambda verb_=verb, **given: called.append(verb_))
    monkeypatch.setenv("WHYLIGHT_ADMIN_ADDRESS", "unix:/nowhere")
    assert CliRunner().invoke(command, arguments).exit_code == 0
    assert called == [shown]


def test_the_help_lists_the_commands() -> None:
    text = CliRunner().invoke(command, ["--help"]).output
    assert all(f"\n  {name} " in text for name in ("show", "status", "load", "unload", "reload"))
    assert isinstance(command, click.Group)
