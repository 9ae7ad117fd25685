"""A worker that is fed in its own process: what `whylight.worker` runs, without a front end, a socket or gRPC.

Started by `serving.py`, which is the only one to speak with it: a WorkerConfig, then lines that each ask for a run.
"""

from __future__ import annotations

import json
import os
import queue
import struct
import sys
import threading
import time
from pathlib import Path
from typing import Any

OUTSTANDING = 2
"""Batches that it holds, as a worker of the server does: the one it computes and the one it decodes."""

_LENGTH = struct.Struct("<I")


class Feed:
    """Stands for a worker's connection: gives it batch after batch, and takes its results, in memory.

    Frames are the same as on a socket, so that the loop does with them what it always does; nothing is copied between
    processes.
    """

    def __init__(self, spec: Any, items: list[Any], size: int) -> None:
        self._spec = spec
        self._items = items  # in turns
        self._size = size
        self._next = 0
        self._batches = 0
        self._open = 0
        self._incoming: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reading = memoryview(b"")
        self._written = bytearray()
        self._feeding = False
        self.idle = threading.Event()
        self.ends: list[float] = []
        self.failed = 0
        self.answer_bytes = 0

    def begin(self) -> None:
        """Feed from now on."""
        self.ends, self.failed, self.answer_bytes = [], 0, 0
        self._feeding = True
        self.idle.clear()
        for _ in range(OUTSTANDING):
            self._feed()

    def end(self) -> None:
        """Feed no more; `idle` is set when what was fed is done."""
        self._feeding = False

    def drain(self) -> None:
        """Let the loop end."""
        from whylight.worker.v1 import worker_pb2

        self._put(worker_pb2.FrontEndFrame(drain=worker_pb2.Drain()))

    def _feed(self) -> None:
        from whylight.worker.v1 import worker_pb2

        self._batches += 1
        self._open += 1
        batch = worker_pb2.Batch(batch_id=self._batches, spec=self._spec)
        for _ in range(self._size):
            batch.items.add(item_id=self._next + 1, input=self._items[self._next % len(self._items)])
            self._next += 1
        self._put(worker_pb2.FrontEndFrame(batch=batch))

    def _put(self, frame: Any) -> None:
        from whylight.engine import frames

        self._incoming.put(b"".join(frames.encode(frame)))

    # What the loop takes for a socket.

    def recv_into(self, view: memoryview) -> int:
        """Give what there is, waiting for it; a socket does the same."""
        if not self._reading:
            self._reading = memoryview(self._incoming.get())
        count = min(len(view), len(self._reading))
        view[:count] = self._reading[:count]
        self._reading = self._reading[count:]
        return count

    def sendall(self, data: bytes) -> None:
        """Take part of a frame."""
        from whylight.worker.v1 import worker_pb2

        self._written += data
        while len(self._written) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._written)
            if len(self._written) < _LENGTH.size + size:
                return
            frame = worker_pb2.WorkerFrame.FromString(bytes(self._written[_LENGTH.size : _LENGTH.size + size]))
            del self._written[: _LENGTH.size + size]
            self._take(frame, size)

    def _take(self, frame: Any, size: int) -> None:
        kind = frame.WhichOneof("body")
        if kind == "result":
            self.ends.append(time.monotonic())
            self.failed += frame.result.result.HasField("error")
            self.answer_bytes += size
        elif kind == "done":
            self._open -= 1
            if self._feeding:
                self._feed()
            elif not self._open:
                self.idle.set()


def serve_runs(feed: Feed) -> None:
    """Do runs as they are asked for, one line of JSON each: how long to go on, and what to leave out before it."""
    for line in sys.stdin:
        asked = json.loads(line)
        feed.begin()
        time.sleep(asked["settle"])
        began, spent = time.monotonic(), time.process_time()
        time.sleep(asked["seconds"])
        ended, spent = time.monotonic(), time.process_time() - spent
        feed.end()
        feed.idle.wait()
        count = sum(began <= end < ended for end in feed.ends)
        answer = {
            "calls": count,
            "failed": feed.failed,
            "throughput": count / (ended - began),
            "cpu_ms_per_call": spent * 1e3 / max(count, 1),
            "answer_bytes": feed.answer_bytes / max(len(feed.ends), 1),
        }
        print(json.dumps(answer), flush=True)
    feed.drain()


def main() -> None:
    """Load what the config says, and run the worker's own loop in the main thread until nobody asks any more."""
    asked = json.loads(sys.stdin.readline())
    from whylight.worker.__main__ import _prepare_environment
    from whylight.worker.config import WorkerConfig

    config = WorkerConfig.model_validate(asked["config"])
    _prepare_environment(config)
    from whylight.rpc.validate import check_request
    from whylight.v1 import explanation_pb2 as v1
    from whylight.worker.loop import Loop
    from whylight.worker.service import ExplainerService

    service = ExplainerService.open(config)
    requests = [v1.ExplainRequest.FromString(Path(path).read_bytes()) for path in asked["requests"]]
    checked = [check_request(request, config.limits, config.models[0]["name"]) for request in requests]
    spec = checked[0].spec
    spec.generation = service.ready.models[0].generation
    feed = Feed(spec, [one for each in checked for one in each.inputs], asked["batch"])
    threading.Thread(target=serve_runs, args=(feed,), daemon=True).start()
    print("ready", flush=True)
    connection: Any = feed
    Loop(connection, service, decode_threads=config.decode_threads, orphaned=lambda: None).run()
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
