"""The log of a real server: each record an object, each request a line, and nothing in it of what requests hold."""

from __future__ import annotations

import contextlib
import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from telemetry_serving import request, scrape_until, serving

from whylight.security.new_token import new_token
from whylight.v1 import catalog_pb2, catalog_pb2_grpc, explanation_pb2_grpc
from whylight.v1 import explanation_pb2 as v1

SECRET = "what nobody else may know"


@dataclass
class Logged:
    text: str
    records: list[dict[str, Any]]
    token: str

    def of(self, **fields: Any) -> list[dict[str, Any]]:
        return [record for record in self.records if fields.items() <= record.items()]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Logged]:
    """What a server logged of a few calls of somebody with a token."""
    made = new_token("alice", ["explain", "catalog"])
    tokens = tmp_path_factory.mktemp("tokens") / "tokens.toml"
    tokens.touch(0o600)
    tokens.write_text(made.lines)
    with serving(
        tmp_path_factory.mktemp("plugin"),
        logging={"format": "json", "requests": True},
        authentication={"tokens_file": str(tokens)},
        batching={"max_batch": 1},
        metrics={"port": 0},
    ) as server:
        with grpc.insecure_channel(server.address) as channel:
            stub = explanation_pb2_grpc.ExplanationServiceStub(channel)

            def metadata(name: str, token: str = made.token) -> list[tuple[str, str]]:
                return [("x-request-id", name), ("authorization", f"Bearer {token}")]

            def explain(name: str, sent: v1.ExplainRequest, **options: str) -> None:
                with contextlib.suppress(grpc.RpcError):
                    stub.Explain(sent, metadata=metadata(name, **options), timeout=60)

            explain("sound", request("plain", "talking", inputs=2, secret=SECRET))
            explain("failing", request("failing"))
            explain("unknown", request("plain", model="a model\nwith=more"))
            explain("stranger", request("plain"), token="no token")
            messages = [v1.StreamExplainRequest(id=name, request=request("plain")) for name in "ab"]
            list(stub.StreamExplain(iter(messages), metadata=metadata("stream"), timeout=60))
            catalog_pb2_grpc.CatalogServiceStub(channel).ListModels(
                catalog_pb2.ListModelsRequest(), metadata=metadata("catalog"), timeout=60
            )
        expected = {("alice", "ok"): 3, ("alice", "failed"): 1, ("alice", "invalid"): 1}
        scrape_until(server, lambda seen: seen.by("whylight_caller_requests_total", "caller", "outcome") == expected)
        server.stop()
        lines = server.log.splitlines()
        yield Logged(server.log, [json.loads(line) for line in lines], made.token)


def test_every_line_is_an_object_that_says_when_how_bad_and_where(logged: Logged) -> None:
    for record in logged.records:
        assert datetime.datetime.fromisoformat(record["time"].replace("Z", "+00:00")).tzinfo
        assert record["level"] in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
        assert record["logger"]
        assert record["message"]


def test_each_request_has_one_line(logged: Logged) -> None:
    lines = logged.of(logger="whylight.requests", rpc="Explain")
    assert [(line["request_id"], line["code"], line["reason"]) for line in lines] == [
        ("sound", "OK", ""),
        ("failing", "OK", "METHOD_FAILED"),
        ("unknown", "NOT_FOUND", "MODEL_NOT_FOUND"),
        ("stranger", "UNAUTHENTICATED", "TOKEN_INVALID"),
    ]
    sound = lines[0]
    assert (sound["model"], sound["methods"], sound["inputs"]) == ("tiny", ["plain", "talking"], 2)
    assert sound["caller"] == "alice"
    assert "caller" not in lines[3]
    assert 0 <= sound["queue_seconds"] <= sound["seconds"] < 60
    assert lines[2]["model"] == "a?model?with=more".replace("=", "?")


def test_each_message_of_a_stream_has_a_line_and_so_has_the_stream(logged: Logged) -> None:
    lines = logged.of(logger="whylight.requests", rpc="StreamExplain", request_id="stream", code="OK")
    assert [line.get("methods") for line in lines] == [["plain"], ["plain"], None]
    assert len(logged.of(logger="whylight.requests", rpc="ListModels", request_id="catalog")) == 1


def test_the_probes_of_health_have_none(logged: Logged) -> None:
    assert not logged.of(logger="whylight.requests", rpc="Watch")


def test_what_a_worker_says_keeps_its_level_its_logger_its_request_and_its_traceback(logged: Logged) -> None:
    (odd,) = logged.of(logger="whylight_observed", request_id="sound")[:1]
    assert (odd["level"], odd["message"], odd["worker"]) == ("WARNING", "something is odd", "worker 0")
    (failed,) = logged.of(level="ERROR", request_id="failing")
    assert failed["message"] == "the method 'failing' of plugin 'observed' failed"
    assert failed["exception"].endswith("RuntimeError: a secret of the plugin's")
    assert failed["worker"] == "worker 0"
    assert logged.of(message="worker 0: printed", level="INFO")


def test_nothing_of_options_and_tokens_is_in_it(logged: Logged) -> None:
    assert SECRET not in logged.text
    assert logged.token not in logged.text
    assert "no token" not in logged.text
