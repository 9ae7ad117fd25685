"""The real server as a child process, for tests of clients and of plugins; knows it by its socket only."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from whylight.serve import READY_LINE
from whylight.settings import PREFIX


class ServerFailed(RuntimeError):
    """The server did not come up, or did not go down; the message ends with its log."""


class RunningServer:
    """A server in a process of its own. `address` is for clients; `pid` is the front end's."""

    def __init__(
        self,
        process: subprocess.Popen[str],
        address: str,
        log: Path,
        credentials: grpc.ChannelCredentials | None = None,
    ) -> None:
        self.address = address
        self._credentials = credentials
        self._process = process
        self._log = log

    @property
    def pid(self) -> int:
        """Process id of the front end."""
        return self._process.pid

    @property
    def log(self) -> str:
        """What the server has logged until now."""
        return self._log.read_text(encoding="utf-8", errors="replace")

    def wait_ready(self, timeout: float) -> None:
        """Return when the server answers calls: health tells, without polling.

        Raises:
            ServerFailed: it is not so after `timeout` seconds.
        """
        with self._channel() as channel:
            watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest(), timeout=timeout)
            try:
                for state in watch:
                    if state.status == health_pb2.HealthCheckResponse.SERVING:
                        watch.cancel()
                        return
            except grpc.RpcError as error:
                raise ServerFailed(f"the server is not ready: {error.code().name}\n{self.log}") from None
        raise ServerFailed(f"the server stopped before it was ready\n{self.log}")

    def _channel(self) -> grpc.Channel:
        if self._credentials is None:
            return grpc.insecure_channel(self.address)
        return grpc.secure_channel(self.address, self._credentials)

    def signal(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send a signal to the front end."""
        self._process.send_signal(number)

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for the exit and return its code.

        Raises:
            ServerFailed: it has not exited after `timeout` seconds. It is killed then.
        """
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            raise ServerFailed(f"the server did not stop within {timeout:g} seconds\n{self.log}") from None

    def stop(self, timeout: float = 60.0) -> int:
        """Ask the server to drain and to stop, and return its exit code; 0 means that every call was answered.

        Raises:
            ServerFailed: it has not exited after `timeout` seconds. It is killed then.
        """
        if self._process.poll() is None:
            self.signal()
        return self.wait(timeout)


@contextlib.contextmanager
def running_server(
    *, timeout: float = 180.0, wait: bool = True, credentials: grpc.ChannelCredentials | None = None, **sections: Any
) -> Iterator[RunningServer]:
    """Run the real server, on a port that the system chooses, and stop it in the end.

    Args:
        timeout: seconds until it must be ready.
        wait: whether to wait until the models are loaded.
        credentials: what to wait with, for a server that speaks TLS.
        sections: settings, one argument for each top-level key, such as ``models=[{"name": ..., "source": ...}]`` or
            ``batching={"max_batch": 2}``. Settings of the environment are left out.

    Raises:
        ServerFailed: it did not come up.

    Example::

        with running_server(plugins={"only": ["demo", "mine"]}) as server, whylight.Client(server.address) as client:
            client.explain("cat.jpg", method="mine")
    """
    sections["server"] = {"port": 0, **sections.get("server", {})}
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    environment |= {f"{PREFIX}{name.upper()}": _text(value) for name, value in sections.items()}
    with tempfile.TemporaryDirectory(prefix="whylight-") as folder:
        log = Path(folder) / "server.log"
        with log.open("w") as stderr:
            process = subprocess.Popen(
                [sys.executable, "-m", "whylight.serve"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
                env=environment,
            )
        try:
            assert process.stdout is not None
            with process.stdout:
                line = process.stdout.readline()
                if not line.startswith(READY_LINE):
                    raise ServerFailed(f"the server did not start: {line}\n{log.read_text()}")
                server = RunningServer(process, line.removeprefix(READY_LINE).strip(), log, credentials)
                if wait:
                    server.wait_ready(timeout)
                yield server
                server.stop()
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
