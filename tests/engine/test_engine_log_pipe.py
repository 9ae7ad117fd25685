"""What a worker prints: line by line, with the level that the worker gave it, whoever still holds the pipe."""

from __future__ import annotations

import logging
import os

import pytest

from whylight.engine.log_pipe import LogPipe

log = logging.getLogger("test-log-pipe")


async def passed_on(text: bytes, caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    caplog.set_level(logging.DEBUG, logger=log.name)
    pipe = await LogPipe.open("worker 3", log)
    os.write(pipe.inlet, text)
    pipe.close_inlet()
    await pipe.finish(60.0)
    return [(record.levelname, record.getMessage()) for record in caplog.records if record.name == log.name]


async def test_lines_keep_the_level_that_the_worker_gave_them(caplog: pytest.LogCaptureFixture) -> None:
    text = b"printed\nWARNING torch: slow\nERROR whylight: failed\nTraceback:\n  line 1\nINFO: on\nINFO x: on\nERRORS\n"
    assert await passed_on(text, caplog) == [
        ("INFO", "worker 3: printed"),
        ("WARNING", "worker 3: torch: slow"),
        ("ERROR", "worker 3: whylight: failed"),
        ("ERROR", "worker 3: Traceback:"),
        ("ERROR", "worker 3:   line 1"),
        ("ERROR", "worker 3: INFO: on"),
        ("INFO", "worker 3: x: on"),
        ("INFO", "worker 3: ERRORS"),
    ]


async def test_bytes_that_are_no_text_and_a_last_line_without_an_end_are_passed_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    assert await passed_on(b"\xff\xfe\nlast", caplog) == [
        ("INFO", "worker 3: \ufffd\ufffd"),
        ("INFO", "worker 3: last"),
    ]


async def test_the_end_does_not_wait_for_who_still_holds_the_pipe() -> None:
    pipe = await LogPipe.open("worker 3", log)
    held = os.dup(pipe.inlet)
    try:
        await pipe.finish(0.01)
    finally:
        os.close(held)


async def test_the_last_lines_are_kept_for_the_obituary(caplog: pytest.LogCaptureFixture) -> None:
    pipe = await LogPipe.open("worker 3", log)
    assert pipe.last_lines == "nothing"
    os.write(pipe.inlet, b"".join(b"line %d\n" % number for number in range(100)))
    await pipe.finish(60.0)
    assert pipe.last_lines.split() == [word for number in range(80, 100) for word in ("line", str(number))]
