"""AdminService: what becomes of models and of the calls on them while one is loaded, unloaded and reloaded."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from collections.abc import AsyncIterator
from itertools import groupby
from pathlib import Path

import grpc
import pytest
from admin_serving import Administered, administering, choice
from rpc_serving import Failure, failure_of

from whylight.engine.model_loads import LATE_LOAD_RETRY_SECONDS
from whylight.errors import InvalidInput, Unavailable, Unsupported
from whylight.rpc.admin_server import AdminServer
from whylight.rpc.admin_servicer import AdminServicer
from whylight.security import Access, Scope
from whylight.security.new_token import new_token
from whylight.settings import ConfigurationError, Settings
from whylight.v1 import admin_pb2
from whylight.v1.catalog_pb2 import (
    MODEL_STATE_FAILED,
    MODEL_STATE_LOADING,
    MODEL_STATE_READY,
    MODEL_STATE_UNLOADED,
    MODEL_STATE_UNLOADING,
)


@pytest.fixture
async def administered(tmp_path: Path) -> AsyncIterator[Administered]:
    choices = (choice("net", workers=(0, 1)), choice("late", workers=(1,), load=False))
    async with administering(tmp_path, *choices, workers=2) as served:
        served.pool.up(0, net="a")
        served.pool.up(1, net="a")
        yield served


def digest_of(served: Administered, name: str = "net") -> str:
    """The digest that a call which begins now is answered by."""
    with served.engine.pinned(name) as model:
        return model.digest


async def failed(served: Administered, verb: str, name: str) -> Failure:
    return await failure_of(served.change(verb, name))


async def test_the_list_says_what_became_of_each_model(administered: Administered) -> None:
    listed = await administered.stub.ListModels(admin_pb2.AdminServiceListModelsRequest())
    late, net = listed.models
    assert (net.name, net.state, net.source, net.digest, net.generation) == (
        "net",
        MODEL_STATE_READY,
        "demo:x",
        "digest of a",
        1,
    )
    assert [(one.worker, one.device, one.up, list(one.generations)) for one in net.workers] == [
        (0, "cpu:0", True, [1]),
        (1, "cpu:1", True, [1]),
    ]
    assert (late.state, late.digest, late.generation) == (MODEL_STATE_UNLOADED, "", 0)
    assert [(one.worker, list(one.generations)) for one in late.workers] == [(1, [])]


async def test_a_model_is_loaded_at_the_workers_that_are_to_have_it_and_told_of_meanwhile(
    administered: Administered,
) -> None:
    with pytest.raises(Unsupported):
        digest_of(administered, "late")
    told = await administered.change("Load", "late")
    assert [state for state, _ in groupby(one.state for one in told)] == [MODEL_STATE_LOADING, MODEL_STATE_READY]
    assert [(worker, load.name, load.generation) for worker, load in administered.pool.loads] == [(1, "late", 1)]
    assert digest_of(administered, "late") == "digest of a"
    assert [name for _, fields in administered.pool.configured[1] for name in [fields["name"]]] == ["net", "late"]
    (again,) = await administered.change("Load", "late")
    assert again.state == MODEL_STATE_READY
    assert len(administered.pool.loads) == 1, "it was loaded already"


async def test_while_it_is_loaded_calls_are_told_to_come_again(administered: Administered) -> None:
    administered.pool.hold.clear()
    loading = asyncio.ensure_future(administered.change("Load", "late"))
    await administered.pool.asked.wait()
    with pytest.raises(Unavailable) as caught:
        digest_of(administered, "late")
    assert caught.value.reason == "MODEL_LOADING"
    busy = await failed(administered, "Load", "late")
    assert (busy.code, busy.reason) == (grpc.StatusCode.UNAVAILABLE, "MODEL_BUSY")
    administered.pool.hold.set()
    await loading


async def test_a_reload_takes_what_the_file_says_now_and_no_call_changes_under_way(administered: Administered) -> None:
    administered.file["net"] = choice("net", "b", workers=(0, 1))
    administered.pool.hold.clear()
    reloading = asyncio.ensure_future(administered.change("Reload", "net"))
    await administered.pool.asked.wait()
    with administered.engine.pinned("net") as before:
        assert before.digest == "digest of a"
        status = await administered.status("net")
        assert (status.state, status.generation, status.next_generation) == (MODEL_STATE_READY, 1, 2)
        assert {model.name: model.state for model in administered.engine.catalog.models}["net"] == MODEL_STATE_READY
        administered.pool.hold.set()
        status = await administered.until("net", lambda status: status.generation == 2)
        assert digest_of(administered) == "digest of b", "new calls go to the new one"
        assert administered.pool.unloads == [], "a call is at work on the old one"
        assert (status.ending_calls, status.next_generation) == (1, 0)
        assert [list(one.generations) for one in status.workers] == [[1, 2], [1, 2]]
        assert not reloading.done()
    told = await reloading
    assert [one.generation for one in told][-1] == 2
    assert [list(one.generations) for one in told[-1].workers] == [[2], [2]]
    assert sorted((worker, one.generation) for worker, one in administered.pool.unloads) == [(0, 1), (1, 1)]
    assert {generation for generation, _ in administered.pool.configured[0]} == {2}
    assert administered.pool.configured[0][0][1]["weights"] == "b", "a worker that is started again loads the new one"


async def test_a_reload_that_fails_at_one_worker_keeps_the_old_version_everywhere_and_says_why(
    administered: Administered,
) -> None:
    administered.file["net"] = choice("net", "broken", workers=(0, 1))
    administered.pool.failures["broken"] = InvalidInput("the weights do not fit", reason="", field="weights")
    failure = await failed(administered, "Reload", "net")
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_LOAD_FAILED")
    assert failure.metadata == {"model": "net", "cause": "REQUEST_INVALID"}
    assert "worker 0 could not load the model 'net': the weights do not fit" in failure.message
    assert digest_of(administered) == "digest of a"
    status = await administered.status("net")
    assert (status.state, status.generation, status.error.reason) == (MODEL_STATE_READY, 1, "MODEL_LOAD_FAILED")
    administered.file["net"] = choice("net", "b", workers=(0, 1))
    *_, last = await administered.change("Reload", "net")
    assert (last.generation, last.digest, last.HasField("error")) == (3, "digest of b", False)


async def test_a_worker_that_dies_of_the_new_version_costs_the_reload_and_not_the_model(
    administered: Administered,
) -> None:
    administered.pool.hold.clear()
    reloading = asyncio.ensure_future(failed(administered, "Reload", "net"))
    await administered.pool.asked.wait()
    administered.pool.listener.worker_down(0, 7.0)
    administered.pool.hold.set()
    failure = await reloading
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "WORKER_LOST")
    assert failure.metadata == {"model": "net", "cause": "WORKER_LOST"}
    assert failure.retry_seconds == 7.0, "as the pool says of the worker"
    assert "worker 0 could not load the model 'net'" in failure.message
    assert digest_of(administered) == "digest of a"
    while not administered.pool.unloads:  # the other worker had loaded it
        await asyncio.sleep(0)
    assert [(worker, one.generation) for worker, one in administered.pool.unloads] == [(1, 2)]


async def test_weights_that_change_while_workers_load_them_are_found_out(administered: Administered) -> None:
    send = administered.pool.send

    def each_its_own(worker: int, frame: object) -> None:
        if frame.WhichOneof("body") == "load":
            frame.load.config = frame.load.config.replace('"a"', f'"a{worker}"')
        send(worker, frame)

    administered.pool.send = each_its_own
    failure = await failed(administered, "Reload", "net")
    assert (failure.reason, failure.metadata["cause"]) == ("MODEL_LOAD_FAILED", "MODEL_CHANGED")
    assert digest_of(administered) == "digest of a"


async def test_a_worker_that_comes_back_late_is_given_the_version_that_answers(administered: Administered) -> None:
    administered.pool.listener.worker_down(1, 1.0)
    administered.file["net"] = choice("net", "b", workers=(0, 1))
    await administered.change("Reload", "net")
    administered.pool.up(1, net="a")  # it was being started with what was right then
    await administered.until("net", lambda status: [list(one.generations) for one in status.workers] == [[2], [2]])
    assert digest_of(administered) == "digest of b"


async def test_when_all_workers_come_back_with_other_weights_that_is_another_version(
    administered: Administered,
) -> None:
    for worker in (0, 1):
        administered.pool.listener.worker_down(worker, 1.0)
    assert (await administered.status("net")).state == MODEL_STATE_LOADING
    administered.file["net"] = choice("net", "never asked for")
    administered.pool.up(0, net="c")
    await administered.until("net", lambda status: status.generation == 2)
    assert digest_of(administered) == "digest of a", "loaded anew as it was configured, not as it came"


async def test_an_unload_waits_for_the_calls_that_have_begun(administered: Administered) -> None:
    with administered.engine.pinned("net"):
        unloading = asyncio.ensure_future(administered.change("Unload", "net"))
        status = await administered.until("net", lambda status: status.state != MODEL_STATE_READY)
        assert (status.state, status.ending_calls) == (MODEL_STATE_UNLOADING, 1)
        with pytest.raises(Unsupported) as caught:
            digest_of(administered)
        assert caught.value.reason == "MODEL_NOT_LOADED"
        assert administered.pool.unloads == []
    *_, last = await unloading
    assert last.state == MODEL_STATE_UNLOADED
    assert [list(one.generations) for one in last.workers] == [[], []]
    assert administered.pool.configured[0] == [], "a worker that is started again does not load it"
    (nothing,) = await administered.change("Unload", "net")
    assert nothing.state == MODEL_STATE_UNLOADED
    *_, again = await administered.change("Load", "net")
    assert (again.state, again.generation) == (MODEL_STATE_READY, 2)


async def test_a_first_load_that_fails_leaves_the_model_failed_until_one_succeeds(administered: Administered) -> None:
    administered.pool.failures["a"] = Unsupported("no memory", reason="OUT_OF_MEMORY")
    assert (await failed(administered, "Load", "late")).reason == "MODEL_LOAD_FAILED"
    assert (await administered.status("late")).state == MODEL_STATE_FAILED
    with pytest.raises(Unsupported, match="could not be loaded"):
        digest_of(administered, "late")
    administered.pool.failures.clear()
    assert (await administered.change("Load", "late"))[-1].state == MODEL_STATE_READY


async def test_a_model_that_was_added_to_the_file_can_be_loaded_and_one_that_was_taken_out_be_unloaded(
    administered: Administered,
) -> None:
    administered.file["new"] = choice("new", workers=(0,))
    assert (await administered.change("Load", "new"))[-1].state == MODEL_STATE_READY
    del administered.file["net"]
    gone = await failed(administered, "Reload", "net")
    assert (gone.code, gone.reason, gone.fields) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", ["name"])
    assert (await administered.change("Unload", "net"))[-1].state == MODEL_STATE_UNLOADED


@pytest.mark.parametrize("verb", ["Load", "Unload", "Reload"])
@pytest.mark.parametrize("name", ["nett", "/etc/passwd", "https://example.org/net.pt", "../net"])
async def test_a_request_can_name_what_is_configured_and_nothing_else(
    administered: Administered, verb: str, name: str
) -> None:
    failure = await failed(administered, verb, name)
    assert (failure.code, failure.reason, failure.fields) == (grpc.StatusCode.NOT_FOUND, "MODEL_NOT_FOUND", ["name"])
    assert administered.pool.loads == []


async def test_what_is_not_loaded_cannot_be_reloaded(administered: Administered) -> None:
    failure = await failed(administered, "Reload", "late")
    assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "MODEL_NOT_LOADED")
    assert (await failed(administered, "Reload", "")).code is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_caller_that_goes_away_does_not_end_what_it_asked_for(administered: Administered) -> None:
    administered.file["net"] = choice("net", "b", workers=(0, 1))
    administered.pool.hold.clear()
    call = administered.stub.ReloadModel(admin_pb2.ReloadModelRequest(name="net"))
    await administered.pool.asked.wait()
    call.cancel()
    administered.pool.hold.set()
    await administered.until("net", lambda status: status.digest == "digest of b")


async def test_a_configuration_that_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    def broken() -> dict[str, object]:
        raise ConfigurationError("whylight.toml: not a TOML file")

    async with administering(tmp_path, choice("net"), configured=broken) as served:
        served.pool.up(0, net="a")
        failure = await failed(served, "Reload", "net")
        assert (failure.code, failure.reason) == (grpc.StatusCode.FAILED_PRECONDITION, "CONFIGURATION_INVALID")
        assert "not a TOML file" in failure.message
        assert digest_of(served) == "digest of a"


async def test_a_load_that_never_ends_is_given_up_and_what_comes_of_it_later_is_not_used(tmp_path: Path) -> None:
    async with administering(tmp_path, choice("net")) as served:
        served.engine.models._loads._timeout = 0.01
        served.pool.up(0, net="a")
        served.pool.hold.clear()
        failure = await failed(served, "Reload", "net")
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "LOAD_TIMEOUT")
        assert failure.retry_seconds == LATE_LOAD_RETRY_SECONDS
        served.pool.hold.set()
        while not served.pool.unloads:
            await asyncio.sleep(0)
        assert [one.generation for _, one in served.pool.unloads] == [2]
        assert digest_of(served) == "digest of a"


async def test_the_socket_is_the_servers_own_users_alone(tmp_path: Path) -> None:
    os.umask(before := os.umask(0))
    try:
        os.umask(0)
        async with administering(tmp_path, choice("net")) as served:
            path = Path(served.address.removeprefix("unix:"))
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            assert (await served.status("net")).state == MODEL_STATE_LOADING
            second = AdminServer(
                Settings(admin={"socket": str(path)}), AdminServicer(served.engine.models, dict), Access()
            )
            with pytest.raises(OSError, match="another server does"):
                await second.start()
            assert (await served.status("net")).name == "net", "the first one still has it"
    finally:
        os.umask(before)
    assert not path.exists()


async def test_a_socket_that_was_left_behind_is_replaced_and_a_file_is_not(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(tmp_path / "admin.sock"))
    async with administering(tmp_path, choice("net")) as served:
        assert (await served.status("net")).name == "net"
    (tmp_path / "admin.sock").write_text("a file")
    with pytest.raises(OSError, match="no socket"):
        async with administering(tmp_path, choice("net")):
            pass


async def test_a_port_asks_for_a_token_with_the_scope(tmp_path: Path) -> None:
    tokens = {}
    path = tmp_path / "tokens.toml"
    entries = []
    for name, scope in (("boss", Scope.ADMIN), ("user", Scope.EXPLAIN)):
        made = new_token(name, [scope.value])
        tokens[name] = made.token
        entries.append(made.lines)
    path.write_text("\n".join(entries))
    path.chmod(0o600)
    async with administering(tmp_path, choice("net"), tokens_file=path, port=0) as served:
        served.pool.up(0, net="a")

        async def reason(token: str | None) -> str:
            metadata = [("authorization", f"Bearer {token}")] if token else None
            return (await failure_of(served.change("Unload", "net", metadata))).reason

        assert await reason(None) == "TOKEN_MISSING"
        assert await reason("wl_wrong") == "TOKEN_INVALID"
        assert await reason(tokens["user"]) == "SCOPE_MISSING"
        assert digest_of(served) == "digest of a"
        metadata = [("authorization", f"Bearer {tokens['boss']}")]
        assert (await served.change("Unload", "net", metadata))[-1].state == MODEL_STATE_UNLOADED
