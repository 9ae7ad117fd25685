"""What happens below the answers: retries, deadlines, credentials, metadata, sizes, statuses that are not ours."""

from __future__ import annotations

import subprocess
import time
from concurrent.futures import ThreadPoolExecutor

import grpc
import numpy as np
import pytest
from fake_server import FakeServer

from whylight import AsyncClient, Client
from whylight.client import tls_credentials
from whylight.client.connection import is_local
from whylight.client.failures import error_from_call
from whylight.errors import (
    DeadlineExceeded,
    InternalError,
    InvalidInput,
    Overloaded,
    Unauthenticated,
    Unavailable,
    WhylightError,
)

PIXELS = np.zeros((4, 4, 3), np.uint8)
PHOTOGRAPH = np.zeros((1000, 1000, 3), np.uint8)  # 3 MB: above gRPC's own buffer for retries


@pytest.mark.parametrize("failure", [Unavailable("starting"), Overloaded("full", retry_after=0.1)])
@pytest.mark.parametrize("image", [PIXELS, PHOTOGRAPH], ids=["small", "large"])
def test_refused_calls_are_tried_again_by_grpc(client, server, failure, image):
    server.failures = [failure, failure]
    assert client.explain(image).explanation.map.shape == (2, 2)
    assert len(server.requests) == 3
    assert [metadata.get("grpc-previous-rpc-attempts") for metadata in server.metadata] == [None, "1", "2"]


async def test_refused_calls_are_tried_again_in_asyncio(async_client, server):
    server.failures = [Unavailable("starting")]
    await async_client.explain(PHOTOGRAPH)
    assert len(server.requests) == 2


def test_catalog_calls_are_tried_again(client, server):
    server.failures = [Unavailable("starting")]
    assert len(client.methods()) == 5


def test_the_last_error_is_told_whole(client, server):
    server.failures = [Overloaded("full", retry_after=0.25, metadata={"queue": "9"})] * 4
    with pytest.raises(Overloaded) as caught:
        client.explain(PIXELS)
    assert len(server.requests) == 4
    assert (caught.value.reason, caught.value.retry_after) == ("QUEUE_FULL", 0.25)
    assert caught.value.metadata == {"queue": "9"}
    assert isinstance(caught.value.__cause__, grpc.RpcError)


def test_server_that_pushes_back_is_obeyed(client, server):
    server.failures = [Overloaded("full")]
    server.trailers = (("grpc-retry-pushback-ms", "-1"),)
    with pytest.raises(Overloaded):
        client.explain(PIXELS)
    assert len(server.requests) == 1


@pytest.mark.parametrize("failure", [InvalidInput("wrong"), InternalError("fault"), Unauthenticated("who?")])
def test_errors_that_a_retry_does_not_help_are_not_tried_again(client, server, failure):
    server.failures = [failure]
    with pytest.raises(type(failure)):
        client.explain(PIXELS)
    assert len(server.requests) == 1


def test_deadline_travels_and_ends_the_call(client, server):
    client.explain(PIXELS, deadline=1000)
    client.explain(PIXELS)
    assert 900 < server.deadlines[0] < 1100  # the wire rounds it up, by about a hundredth
    assert 0 < server.deadlines[1] < 900
    server.hold.clear()
    with pytest.raises(DeadlineExceeded):
        client.explain(PIXELS, deadline=2)  # time enough to arrive
    assert server.cancelled.wait(60)


def test_streams_have_no_deadline_of_their_own(client, server):
    list(client.stream([]))
    assert server.deadlines[-1] is None or server.deadlines[-1] > 1e6


def test_nobody_listens():
    with Client("127.0.0.1:1", deadline=120) as client, pytest.raises(Unavailable) as caught:
        client.methods(deadline=60)
    assert caught.value.reason == "UNAVAILABLE"  # gRPC's own status: it has no reason of ours


def test_large_messages_pass_both_ways(client, server):
    image = np.zeros((4000, 4000, 3), np.uint8)  # 48 MB
    assert client.explain(image).explanation.map.shape == (2, 2)
    too_large = np.zeros((5000, 5000, 3), np.uint8)  # 75 MB
    with pytest.raises(InvalidInput) as caught:
        client.explain(too_large)
    assert caught.value.reason == "REQUEST_TOO_LARGE"
    ((_, error), (_, explained)) = sorted(client.explain_many([too_large, PIXELS]))
    assert error.reason == "REQUEST_TOO_LARGE"
    assert explained.explanation.map.shape == (2, 2)
    assert len(server.requests) == 2


def test_metadata_is_asked_for_at_each_call(server):
    tokens = iter(["one", "two"])
    extra = iter(["a", "b"])
    with Client(server.address, token=lambda: next(tokens), metadata=lambda: [("traceparent", next(extra))]) as client:
        client.method("method-1")
        client.method("method-1")
    assert [(seen["authorization"], seen["traceparent"]) for seen in server.metadata] == [
        ("Bearer one", "a"),
        ("Bearer two", "b"),
    ]


async def test_metadata_in_asyncio(server):
    async with AsyncClient(server.address, token="secret", metadata=[("x-request-id", "7")]) as client:
        await client.method("method-1")
        assert [item async for item in client.stream([])] == []
    assert [(seen["authorization"], seen["x-request-id"]) for seen in server.metadata] == [("Bearer secret", "7")] * 2


@pytest.mark.parametrize("make", [Client, AsyncClient])
def test_token_is_never_sent_in_the_clear_to_another_machine(make):
    with pytest.raises(ValueError, match="in the clear"):
        make("explain.example.com:443", token="secret")


@pytest.mark.parametrize(
    ("address", "local"),
    [
        ("localhost:1", True),
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("dns:///localhost:1", True),
        ("unix:/run/whylight.sock", True),
        ("example.com:443", False),
        ("10.0.0.1:1", False),
        ("localhost.example.com:1", False),
        ("0.0.0.0:1", False),
        ("dns://1.1.1.1/localhost:1", False),
    ],
)
def test_which_addresses_stay_on_this_machine(address, local):
    assert is_local(address) is local


def test_many_threads_share_a_client(client):
    with ThreadPoolExecutor(8) as pool:
        maps = pool.map(lambda length: client.explain(b"x" * length).explanation.map.item(), range(1, 60))
        assert list(maps) == list(range(1, 60))


class Call(grpc.RpcError):
    """A failed call as gRPC gives it, with any status."""

    def __init__(self, code, details, trailers=()):
        self._values = code, details, trailers

    def code(self):
        return self._values[0]

    def details(self):
        return self._values[1]

    def trailing_metadata(self):
        return self._values[2]


@pytest.mark.parametrize("trailers", [None, (), (("grpc-status-details-bin", b"\xff\xff garbage"),)])
def test_status_without_readable_details_keeps_its_code_and_words(trailers):
    error = error_from_call(Call(grpc.StatusCode.NOT_FOUND, "gone", trailers))
    assert (type(error).__name__, error.reason, error.message) == ("NotFound", "NOT_FOUND", "gone")
    error = error_from_call(Call(grpc.StatusCode.UNIMPLEMENTED, "", trailers))
    assert (type(error), error.reason, error.message) == (WhylightError, "UNIMPLEMENTED", "UNIMPLEMENTED")


def test_details_that_a_proxy_made_untrue_are_left_aside():
    from whylight.rpc.errors import to_trailers

    _, _, trailers = to_trailers(InvalidInput("wrong", field="model"))
    error = error_from_call(Call(grpc.StatusCode.UNAVAILABLE, "upstream reset", trailers))
    assert (type(error), error.reason, error.violations) == (Unavailable, "UNAVAILABLE", ())


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """A private authority, and a certificate for localhost that serves as the server's and the client's."""
    folder = tmp_path_factory.mktemp("certificates")
    (folder / "extensions").write_text("subjectAltName=DNS:localhost\n")
    for line in (
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=ca -days 2",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout key.pem -out request -subj /CN=localhost",
        "x509 -req -in request -CA ca.pem -CAkey ca.key -CAcreateserial -out chain.pem -days 2 -extfile extensions",
    ):
        try:
            subprocess.run(["openssl", *line.split()], cwd=folder, check=True, capture_output=True)
        except FileNotFoundError:
            pytest.skip("needs the openssl command to make certificates")
    return folder


@pytest.mark.parametrize("mutual", [False, True])
def test_tls(certificates, mutual):
    ca, chain, key = (certificates / name for name in ("ca.pem", "chain.pem", "key.pem"))
    credentials = grpc.ssl_server_credentials(
        [(key.read_bytes(), chain.read_bytes())], ca.read_bytes() if mutual else None, mutual
    )
    own = {"certificate": chain, "key": key} if mutual else {}
    with FakeServer(credentials=credentials) as server:
        with Client(server.address, credentials=tls_credentials(ca=ca, **own), token="secret") as client:
            assert client.method("method-1").name == "method-1"
        assert server.metadata[0]["authorization"] == "Bearer secret"
        stranger = None if mutual else grpc.ssl_channel_credentials()  # no certificate; trusts other authorities
        with (
            Client(server.address, credentials=stranger or tls_credentials(ca=ca)) as client,
            pytest.raises((Unavailable, DeadlineExceeded)),
        ):
            client.method("method-1", deadline=2)
        assert len(server.metadata) == 1


def test_certificate_without_key(certificates):
    with pytest.raises(ValueError, match="come together"):
        tls_credentials(certificate=certificates / "chain.pem")


def test_options_of_the_caller_win(server):
    with (
        Client(server.address, options={"grpc.max_send_message_length": 100}) as client,
        pytest.raises(InvalidInput, match="more than the 100"),
    ):
        client.explain(PHOTOGRAPH)


def test_a_client_can_take_turns_with_several_servers_and_go_on_when_one_leaves():
    with FakeServer() as one, FakeServer() as other:
        address = f"ipv4:127.0.0.1:{one.port},127.0.0.1:{other.port}"
        with Client(address, options={"grpc.lb_policy_name": "round_robin"}) as client:
            end = time.monotonic() + 60
            while not (one.requests and other.requests):  # a server that is not connected yet gets none
                client.explain(PIXELS)
                assert time.monotonic() < end, f"{len(one.requests)} and {len(other.requests)} calls"
            other.server.stop(None).wait()
            for _ in range(10):
                client.explain(PIXELS)
