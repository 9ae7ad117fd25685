"""Starts a worker: ``python -m whylight.worker --socket FD`` with a WorkerConfig on stdin; the front end does it."""

from __future__ import annotations

import argparse
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
import time

from whylight.engine import frames
from whylight.engine.log_line import LogLineFormatter
from whylight.errors import WhylightError
from whylight.worker.config import WorkerConfig
from whylight.worker.memory import keep_freed_memory
from whylight.worker.niceness import give_way_with_all
from whylight.worker.v1 import worker_pb2

EXIT_CANNOT_START = 1
EXIT_DEVICE_LOST = 70
EXIT_ORPHANED = 71

_ORPHAN_GRACE = 5.0
"""Seconds that a worker without a front end may take for what does not look at its cancel token."""

_log = logging.getLogger("whylight.worker")


def main() -> int:
    """Serve one front end until it says drain or is gone, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m whylight.worker", description=__doc__)
    parser.add_argument("--socket", type=int, required=True, help="file descriptor of a connected stream socket")
    connection = socket.socket(fileno=parser.parse_args().socket)
    ready = threading.Event()
    threading.Thread(target=_leave_if_orphaned, args=(connection, ready), name="whylight-watch", daemon=True).start()
    faulthandler.enable()
    # Signals that a terminal or a service manager sends to everybody: it is the front end that decides when to end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        config = WorkerConfig.from_json(sys.stdin.read())
        _configure_logging(config.log_level)
        _prepare_environment(config)
        gc.disable()  # modules stay, and to look through them again and again is a fifth of what torch's import takes
        # Only now: OpenMP reads its settings when torch is loaded.
        from whylight.worker.loop import DeviceLost, Loop
        from whylight.worker.service import ExplainerService, device_of

        gc.freeze()
        gc.enable()
        if device_of(config).type == "cpu":  # and before there are threads that compute: each has its own niceness
            give_way_with_all(config.niceness)
        service = ExplainerService.open(config)
    except Exception as error:
        _log.exception("the worker cannot start")
        message = str(error) if isinstance(error, WhylightError | ValueError) else f"{type(error).__name__}: {error}"
        frames.send(connection, worker_pb2.WorkerFrame(failure=worker_pb2.StartFailure(message=message)))
        return EXIT_CANNOT_START
    ready.set()
    frames.send(connection, worker_pb2.WorkerFrame(ready=service.ready))
    loop = Loop(connection, service, decode_threads=config.decode_threads, orphaned=_leave)
    try:
        loop.run()
    except DeviceLost:
        return EXIT_DEVICE_LOST
    if loop.loading:  # in a thread that the end of the interpreter would wait for, or crash
        logging.shutdown()
        os._exit(0)
    return 0


def _leave_if_orphaned(connection: socket.socket, ready: threading.Event) -> None:
    """End the process as soon as the front end is gone, while nobody reads yet: loading may take minutes.

    The front end says nothing before the worker is ready, so that there is nothing to see but the end.
    """
    try:
        gone = not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        gone = True
    if gone and not ready.is_set():
        os._exit(EXIT_ORPHANED)


def _configure_logging(level: str) -> None:
    handler = logging.StreamHandler()
    handler.setFormatter(LogLineFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)


def _prepare_environment(config: WorkerConfig) -> None:
    """Set what OpenMP reads once. Spinning barriers cost 1.5x when the front end shares the cores (DESIGN.md)."""
    if config.keep_memory_bytes:
        keep_freed_memory(config.keep_memory_bytes)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if config.threads is not None:
        os.environ["OMP_NUM_THREADS"] = str(config.threads)


def _leave() -> None:
    """End the process even if something in it never ends; nobody is left to answer."""
    time.sleep(_ORPHAN_GRACE)
    os._exit(EXIT_ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
