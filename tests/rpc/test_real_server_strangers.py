"""Strangers at the real server, which wants TLS and tokens: each call of each service refuses them alike, says why, and
tells nothing of what is served, by whom, and from which files."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import re
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.rpc import error_details_pb2
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status
from rpc_certificates import Authority, authority

from whylight.open_inference import messages as oip
from whylight.rpc.authentication import FREE, scope_of
from whylight.security import Scope
from whylight.security.new_token import new_token
from whylight.testing.server import RunningServer, running_server
from whylight.v1 import admin_pb2, catalog_pb2, explanation_pb2

MODEL = {"name": "harvestmouse", "source": "python:whylight.testing.networks:conv_gap_net", "input_size": [32, 32]}
SERVICES = [
    *explanation_pb2.DESCRIPTOR.services_by_name.values(),
    *catalog_pb2.DESCRIPTOR.services_by_name.values(),
    oip.POOL.FindServiceByName(oip.SERVICE),
    *reflection_pb2.DESCRIPTOR.services_by_name.values(),
]
ADMIN = list(admin_pb2.DESCRIPTOR.services_by_name.values())
EVERY = [method for service in SERVICES for method in service.methods]
TOKENS = {name: new_token(f"{name}-badger", [name]) for name in ("explain", "catalog", "metrics", "admin")}
EXPIRED = new_token(
    "badger-of-old",
    ["explain", "catalog", "admin"],
    expires=datetime.datetime(2020, 1, 1, tzinfo=datetime.timezone.utc),
)


@dataclass
class Guarded:
    """A server, what it listens at, and channels that trust it."""

    server: RunningServer
    channel: grpc.Channel
    admin: grpc.Channel
    admin_address: str
    folder: Path


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return authority(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, ours: Authority) -> Iterator[Guarded]:
    folder = tmp_path_factory.mktemp("weasel")
    certificate, key = ours.issue("server")
    tokens = folder / "tokens.toml"

    tokens.write_text("".join(made.lines for made in TOKENS.values()) + EXPIRED.lines)
    tokens.chmod(0o600)
    credentials = grpc.ssl_channel_credentials(ours.ca.read_bytes())
    with (
        running_server(
            credentials=credentials,
            models=[MODEL],
            worker={"devices": ["cpu"], "threads": 1},
            plugins={"only": ["gradients"]},
            tls={"certificate": str(certificate), "key": str(key)},
            authentication={"tokens_file": str(tokens)},
            admin={"port": 0},
            metrics={"port": 0},
        ) as server,
        grpc.secure_channel(server.address, credentials) as channel,
    ):
        found = re.search(r"administration at ([^\s\"]+)", server.log)
        assert found, server.log
        with grpc.secure_channel(found[1], credentials) as admin:
            yield Guarded(server, channel, admin, found[1], folder)


def ask(channel: grpc.Channel, method: MethodDescriptor, token: str | None) -> grpc.RpcError | None:
    """Make a call with an empty message, and return how it failed."""
    kinds = {False: "unary", True: "stream"}
    make = getattr(channel, f"{kinds[method.client_streaming]}_{kinds[method.server_streaming]}")
    call = make(f"/{method.containing_service.full_name}/{method.name}")
    metadata = () if token is None else (("authorization", f"Bearer {token}"),)
    sent: Any = iter([b""]) if method.client_streaming else b""
    try:
        answer = call(sent, metadata=metadata, timeout=60)
        if method.server_streaming:
            next(answer)
            answer.cancel()
    except StopIteration:
        return None
    except grpc.RpcError as error:
        return error
    return None


def told(error: grpc.RpcError) -> str:
    """Everything that a stranger is told, details in clear."""
    status = rpc_status.from_call(error)
    assert status is not None, error
    return f"{status} {error.details()} {list(error.trailing_metadata())}"


def reason_of(error: grpc.RpcError) -> str:
    info = error_details_pb2.ErrorInfo()
    assert rpc_status.from_call(error).details[0].Unpack(info)
    assert info.domain == "whylight"
    return info.reason


def name_of(method: MethodDescriptor) -> str:
    return f"{method.containing_service.full_name}/{method.name}"


STRANGERS = {
    "no token": (None, "UNAUTHENTICATED", "TOKEN_MISSING"),
    "a wrong one": ("whylight_wrong", "UNAUTHENTICATED", "TOKEN_INVALID"),
    "one that is over": (EXPIRED.token, "UNAUTHENTICATED", "TOKEN_INVALID"),
    "one of another scope": ("", "PERMISSION_DENIED", "SCOPE_MISSING"),
}


@pytest.mark.parametrize("stranger", STRANGERS)
def test_each_call_refuses_a_stranger_and_tells_why_and_nothing_else(guarded: Guarded, stranger: str) -> None:
    token, code, reason = STRANGERS[stranger]
    secrets = ["harvestmouse", "badger", "weasel", "tokens.toml", "saliency", "torch", "worker", str(guarded.folder)]
    secrets += [made.token for made in (*TOKENS.values(), EXPIRED)]
    guards = [(guarded.channel, method) for method in EVERY] + [
        (guarded.admin, method) for service in ADMIN for method in service.methods
    ]
    asked = 0
    for channel, method in guards:
        path = f"/{name_of(method)}"
        if path in FREE:
            continue
        others = [made.token for scope, made in TOKENS.items() if Scope(scope) is not scope_of(path)]
        for shown in [token] if stranger != "one of another scope" else others:
            error = ask(channel, method, shown)
            assert error is not None, name_of(method)
            assert (error.code().name, reason_of(error)) == (code, reason), name_of(method)
            for secret in secrets:
                assert secret not in told(error), name_of(method)
            asked += 1
    assert asked >= 20
    assert "Traceback" not in guarded.server.log


def test_who_has_the_right_is_let_in_everywhere(guarded: Guarded) -> None:
    """Or it would not be the tokens for which the others are refused."""
    for method in EVERY:
        scope = scope_of(f"/{name_of(method)}")
        error = ask(guarded.channel, method, TOKENS[scope.value].token)
        if error is not None:
            assert error.code() not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
    (service,) = ADMIN
    error = ask(guarded.admin, service.methods_by_name["ListModels"], TOKENS["admin"].token)
    assert error is None


def test_probes_are_told_states_and_nothing_else(guarded: Guarded) -> None:
    """A stranger may ask whether a name is ready, and learns of no name that it does not know."""
    for method in EVERY:
        if f"/{name_of(method)}" in FREE:
            error = ask(guarded.channel, method, None)
            assert error is None or "harvestmouse" not in told(error)
    reflection = reflection_pb2_grpc.ServerReflectionStub(guarded.channel)
    asked = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as caught:
        next(reflection.ServerReflectionInfo(iter([asked]), timeout=60))
    assert reason_of(caught.value) == "TOKEN_MISSING"


def test_plain_text_gets_no_word_of_it_and_no_service_takes_a_token_that_way(guarded: Guarded) -> None:
    for address, methods in ((guarded.server.address, EVERY), (guarded.admin_address, ADMIN[0].methods)):
        with grpc.insecure_channel(address, [("grpc.enable_retries", 0)]) as channel:
            for method, token in itertools.product(methods, (None, TOKENS["explain"].token)):
                error = ask(channel, method, token)
                assert error is not None
                assert error.code() is grpc.StatusCode.UNAVAILABLE, name_of(method)
        host, _, port = address.rpartition(":")
        for first in (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"):
            with socket.create_connection((host, int(port)), 60) as plain:
                plain.sendall(first)
                with contextlib.suppress(ConnectionResetError):
                    plain.shutdown(socket.SHUT_WR)
                heard = b""
                with contextlib.suppress(ConnectionResetError):
                    while piece := plain.recv(4096):
                        heard += piece
            assert len(heard) <= 16, "an alert of TLS at most"
    assert ask(guarded.channel, EVERY[0], TOKENS["explain"].token) is not None, "it lives, and reads what it is sent"


def test_metrics_are_open_to_this_machine_only_and_tell_no_secrets(guarded: Guarded) -> None:
    found = re.search(r"metrics at ([^\s\"]+)", guarded.server.log)
    assert found
    assert "127.0.0.1" in found[1]
    with urllib.request.urlopen(found[1], timeout=60) as answer:
        text = answer.read().decode()
    for secret in (*(made.token for made in TOKENS.values()), str(guarded.folder), "tokens.toml"):
        assert secret not in text
    assert not any(made.token in guarded.server.log for made in (*TOKENS.values(), EXPIRED))
