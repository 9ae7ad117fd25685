"""Who may read the metrics, and over what."""

from __future__ import annotations

import contextlib
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter
from telemetry_serving import fetch

from whylight.security import Access, Scope, bearer_token
from whylight.security.new_token import new_token
from whylight.settings import ConfigurationError, Settings, load_settings
from whylight.telemetry.endpoint import MetricsEndpoint
from whylight.telemetry.endpoint_tls import EndpointTls
from whylight.telemetry.telemetry import Telemetry


@contextlib.contextmanager
def endpoint(
    may_read: Callable[[str | None], object] | None = None, tls: EndpointTls | None = None
) -> Iterator[MetricsEndpoint]:
    registry = CollectorRegistry()
    Counter("things_total", "Things.", registry=registry).inc(3)
    made = MetricsEndpoint(registry, "127.0.0.1", 0, may_read, tls)
    yield made
    made.close()


def test_a_token_needs_the_scope(tmp_path: Path) -> None:
    reader, other = new_token("prometheus", ["metrics"]), new_token("caller", ["explain", "catalog"])
    path = tmp_path / "tokens.toml"
    path.touch(0o600)
    path.write_text(reader.lines + other.lines)
    access = Access(path)
    with endpoint(lambda header: access.check(bearer_token(header), Scope.METRICS)) as made:
        status, text = fetch(made.address, reader.token)
        assert status == 200
        assert "things_total 3.0" in text
        for token, refused in (("", 401), ("wrong", 401), (other.token, 403)):
            status, text = fetch(made.address, token)
            assert status == refused
            assert "things" not in text


def certificate(folder: Path, name: str) -> tuple[str, str]:
    chain, key = str(folder / f"{name}.pem"), str(folder / f"{name}.key")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-days", "1", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command, "-keyout", key, "-out", chain], check=True, capture_output=True)
    return chain, key


def test_it_speaks_tls_and_takes_a_new_certificate_while_it_listens(tmp_path: Path) -> None:
    chain, key = certificate(tmp_path, "first")
    with endpoint(tls=EndpointTls(chain, key)) as made:
        assert made.address.startswith("https://")
        assert "things_total 3.0" in fetch(made.address, tls=ssl.create_default_context(cafile=chain))[1]
        second, second_key = certificate(tmp_path, "second")
        trusting_second = ssl.create_default_context(cafile=second)
        with pytest.raises(OSError, match="CERTIFICATE_VERIFY_FAILED"):
            fetch(made.address, tls=trusting_second)
        Path(second_key).replace(key)
        Path(second).replace(chain)
        assert fetch(made.address, tls=trusting_second)[0] == 200
        with pytest.raises(OSError, match=r"closed|reset"):  # plain HTTP is not answered
            fetch(made.address.replace("https", "http"))


def test_clients_that_say_nothing_take_no_more_threads_than_there_are_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("whylight.telemetry.endpoint.CONNECTIONS", 2)
    with endpoint() as made, contextlib.ExitStack() as idle:
        place = made.address.removeprefix("http://").partition("/")[0].split(":")
        threads = threading.active_count()
        sockets = [idle.enter_context(socket.create_connection((place[0], int(place[1])), 60)) for _ in range(5)]
        assert [one.recv(1) for one in sockets[2:]] == [b""] * 3, "they are closed"
        assert threading.active_count() <= threads + 2
        for one in sockets[:2]:
            one.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
            while one.recv(2**16):
                pass
        end = time.monotonic() + 60
        while threading.active_count() > threads and time.monotonic() < end:
            time.sleep(0.01)
        assert fetch(made.address)[0] == 200


def test_a_port_that_is_taken_is_an_error_that_says_so() -> None:
    with endpoint() as made:
        port = int(made.address.rpartition(":")[2].partition("/")[0])
        with pytest.raises(OSError, match=f"cannot serve metrics on 127.0.0.1:{port}"):
            MetricsEndpoint(CollectorRegistry(), "127.0.0.1", port)


def test_servers_of_one_process_count_for_themselves() -> None:
    settings = Settings(metrics={"port": 0})
    first, second = Telemetry(settings)._registry, Telemetry(settings)._registry
    assert first is not second
    assert first.get_sample_value("process_start_time_seconds") is not None


def test_tokens_do_not_travel_in_the_clear() -> None:
    sections = {"authentication": {"tokens_file": "/none"}, "metrics": {"port": 1, "host": "0.0.0.0"}}
    with pytest.raises(ConfigurationError, match=r"tokens would travel to 0\.0\.0\.0 in the clear"):
        load_settings(overrides=sections)
    load_settings(overrides={**sections, "tls": {"ends_elsewhere": True}})
    load_settings(overrides={**sections, "metrics": {"host": "0.0.0.0"}})


def test_nobody_measures_unless_the_settings_say_so() -> None:
    assert Telemetry(Settings()).observer is None
