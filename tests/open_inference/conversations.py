"""Conversations of the clients in their own environments with a server: for the tests, and for people to run.

Usage: python conversations.py FOLDER, FOLDER having the environments of scripts/check_open_inference_clients.sh.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from whylight.testing.server import running_server

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / "cache" / "open-inference"
SCRIPTS = {"tritonclient": "triton_conversation.py", "kserve": "kserve_conversation.py"}
MODEL = {"name": "tiny", "source": "python:whylight.testing.networks:conv_gap_net"}
SERVER = {
    "models": [MODEL],
    "worker": {"devices": ["cpu"], "threads": 1},
    "plugins": {"only": ["cam", "gradients"]},
}
VERSIONS = (
    "import importlib.metadata as m; print(*(f'{n} {m.version(n)}' for n in (%r, 'grpcio', 'protobuf')), sep=', ')"
)


def python_of(client: str, folder: Path = ENVIRONMENTS) -> Path:
    """Return the interpreter that a client is installed for, whether it is there or not."""
    return folder.resolve() / client / "bin" / "python"


def converse(client: str, address: str, folder: Path = ENVIRONMENTS) -> subprocess.CompletedProcess[str]:
    """Run the conversation of a client with a server that serves MODEL."""
    command = [python_of(client, folder), HERE / SCRIPTS[client], address, MODEL["name"]]
    return subprocess.run(command, capture_output=True, text=True, timeout=240)


def main(folder: Path) -> int:
    """Run all conversations, print them, and return the exit code."""
    failed = []
    with running_server(**SERVER) as server:
        for client in SCRIPTS:
            versions = subprocess.check_output([python_of(client, folder), "-c", VERSIONS % client], text=True).strip()
            print(f"=== {versions}", flush=True)
            done = converse(client, server.address, folder)
            print(done.stdout, end="", flush=True)
            if done.returncode:
                failed.append(client)
                print(done.stderr, file=sys.stderr)
    print(f"=== {'failed: ' + ', '.join(failed) if failed else 'all of it held'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
