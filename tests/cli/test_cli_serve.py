"""What a signal does to a server that has only just begun to start."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("command", [("whylight", "serve"), ("whylight.serve",)])
def test_sighup_does_not_end_a_server_that_reads_its_settings(command: tuple[str, ...], tmp_path: Path) -> None:
    """The file of settings is a pipe: who has opened both ends knows that the server is reading, and waits."""
    config = tmp_path / "whylight.toml"
    os.mkfifo(config)
    starting = subprocess.Popen(
        [sys.executable, "-m", *command],
        env={**os.environ, "WHYLIGHT_CONFIG": str(config)},
        stderr=subprocess.PIPE,
        text=True,
        # A parent that ignores the signal would have its children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_DFL),
    )
    with starting, config.open("w") as settings:
        starting.send_signal(signal.SIGHUP)
        settings.write("prot = 1\n")
        settings.close()
        _, said = starting.communicate(timeout=120)
    assert starting.returncode == 2, said
    assert "prot" in said
