"""Conversations of the clients in their own environments with servers: for the tests, and for people to run.

Usage: python conversations.py FOLDER, FOLDER having the environments of scripts/check_open_inference_clients.sh.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc

from whylight.security.new_token import new_token
from whylight.testing.server import RunningServer, running_server

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "cache" / "open-inference"
SCRIPTS = {"tritonclient": "triton", "kserve": "kserve"}
MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net"}
SERVER = {
    "models": [MODEL],
    "worker": {"devices": ["cpu"], "threads": 1},
    "plugins": {"only": ["cam", "gradients"]},
}
VERSIONS = (
    "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in (%r, 'grpcio', 'protobuf')), sep=', ')"
)


@dataclass(frozen=True)
class Guarded:
    """A server that wants TLS and tokens: its address by name, its authority, and a token for each of two scopes."""

    address: str
    ca: Path
    explain: str
    catalog: str

    @property
    def arguments(self) -> list[str]:
        """What a guarded conversation is to know besides the address and the model."""
        return [str(self.ca), self.explain, self.catalog]


@contextlib.contextmanager
def guarded_server(folder: Path) -> Iterator[Guarded]:
    """Run a server that wants TLS and tokens; `folder` is for its certificates."""
    sys.path.insert(0, str(HERE.parent / "rpc"))
    from rpc_certificates import authority

    ours = authority(folder / "certificates")
    certificate, key = ours.issue("server")
    explain, catalog = new_token("explainer", ["explain"]), new_token("reader", ["catalog"])
    tokens = folder / "tokens.toml"
    tokens.write_text(explain.lines + catalog.lines)
    tokens.chmod(0o600)
    security = {
        "tls": {"certificate": str(certificate), "key": str(key)},
        "authentication": {"tokens_file": str(tokens)},
    }
    credentials = grpc.ssl_channel_credentials(ours.ca.read_bytes())
    with running_server(**SERVER, **security, credentials=credentials) as server:
        yield Guarded(server.address.replace("127.0.0.1", "localhost"), ours.ca, explain.token, catalog.token)


def python_of(client: str, folder: Path = ENVIRONMENTS) -> Path:
    """Return the interpreter that a client is installed for, whether it is there or not."""
    return folder.resolve() / client / "bin" / "python"


def converse(
    client: str, server: RunningServer | Guarded, folder: Path = ENVIRONMENTS
) -> subprocess.CompletedProcess[str]:
    """Run the conversation of a client with a server that serves MODEL."""
    guarded = server.arguments if isinstance(server, Guarded) else []
    script = HERE / f"{SCRIPTS[client]}_{'guarded_' if guarded else ''}conversation.py"
    command = [python_of(client, folder), script, server.address, MODEL["name"], *guarded]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def main(folder: Path) -> int:
    """Run all conversations, print them, and return the exit code."""
    failed = []
    with (
        tempfile.TemporaryDirectory() as scratch,
        running_server(**SERVER) as server,
        guarded_server(Path(scratch)) as guarded,
    ):
        for client in SCRIPTS:
            versions = subprocess.check_output([python_of(client, folder), "-c", VERSIONS % client], text=True).strip()
            for each, what in ((server, ""), (guarded, ", TLS and tokens")):
                print(f"=== {versions}{what}", flush=True)
                done = converse(client, each, folder)
                print(done.stdout, end="", flush=True)
                if done.returncode:
                    failed.append(client)
                    print(done.stderr, file=sys.stderr)
    print(f"=== {'failed: ' + ', '.join(failed) if failed else 'all of it held'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
