"""What a worker prints: line by line, with the level that the worker gave it, whoever still holds the pipe."""

from __future__ import annotations

import logging
import os
import sys

import pytest

from whylight.engine.log_line import LINE_BYTES, MARK, LogLineFormatter, read_line, working_for
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


async def test_a_record_of_the_workers_log_comes_out_as_one_with_its_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    formatter = LogLineFormatter()
    try:
        raise ValueError("a line\nand another")
    except ValueError:
        record = logging.LogRecord("a.plugin", logging.ERROR, "", 0, "%s of %d", ("one", 2), sys.exc_info())
    with working_for(["first", "second"]):
        line = formatter.format(record)
    assert "\n" not in line
    assert formatter.format(logging.LogRecord("b", 10, "", 0, "quiet", (), None)).count('"request_id": ""') == 1
    await passed_on(f"{line}\nprinted\n{MARK}broken\n".encode(), caplog)
    first, second, third = (one for one in caplog.records if one.name in ("a.plugin", log.name))
    assert (first.name, first.levelname, first.getMessage()) == ("a.plugin", "ERROR", "one of 2")
    assert (first.worker, first.request_id) == ("worker 3", "first,second")  # type: ignore[attr-defined]
    assert first.exc_text is not None
    assert first.exc_text.startswith("Traceback")
    assert first.exc_text.endswith("ValueError: a line\nand another")
    assert (second.levelname, second.getMessage()) == ("INFO", "worker 3: printed")
    assert third.getMessage().endswith("broken")


async def test_a_record_that_no_pipe_takes_is_cut_to_one_that_it_does(caplog: pytest.LogCaptureFixture) -> None:
    try:
        raise ValueError("x" * 100_000)
    except ValueError:
        record = logging.LogRecord("a", logging.ERROR, "", 0, "y" * 100_000, (), sys.exc_info())
    with working_for(f"request-{number}" for number in range(1000)):
        line = LogLineFormatter().format(record)
    assert len(line.encode()) < LINE_BYTES
    read = read_line(line)
    assert read is not None
    assert read.request_id == ",".join(f"request-{number}" for number in range(8)) + ",..."
    await passed_on(line.encode() + b"\n", caplog)
    assert [one.name for one in caplog.records] == ["a"]
