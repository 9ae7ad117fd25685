"""The small run of the fuzzer: two thousand spoiled requests to a real server, the same ones every time."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "fuzz.py"


@pytest.mark.timeout(600)
def test_no_spoiled_request_crashes_the_server_or_is_answered_without_a_reason(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--requests", "2000", "--json", str(tmp_path / "run.json")]
    run = subprocess.run([*command, "--keep", str(tmp_path / "kept")], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
    facts = json.loads((tmp_path / "run.json").read_text())
    assert facts["requests"] == 2000
    assert sum(facts["calls"].values()) > 1900, "the others were misframed"
    assert len(facts["outcomes"]) > 20, "what is refused is refused for many reasons"
    assert facts["outcomes"]["OK"] > 200, "and some of it is not wrong at all"
