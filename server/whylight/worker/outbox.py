"""What a worker has to say, on its way to the socket in two lanes; knows neither work nor what becomes of it.

What long work says takes the slow lane: its pictures are encoded and its results written into frames by a thread of
their own, in their order, so that neither the device nor the answers of others wait for a PNG.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from whylight.engine import frames
from whylight.latest import Latest
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

PREVIEW_BYTES = 32 * 2**20
"""About how many bytes of previews, as pixels, may wait to be encoded and written. Those above it are left out."""

_Make: TypeAlias = Callable[[], worker_pb2.WorkerFrame | None]
"""Returns a frame, None for none. Raises nothing."""


@dataclass(frozen=True)
class Preview:
    """A picture on its way, of `size` bytes as pixels, which `encode` makes the message of."""

    item_id: int
    size: int
    encode: Callable[[], worker_pb2.ItemPreview]


class Outbox:
    """Takes what is to be said from any thread, without blocking, and writes it.

    Results are never left out. Of the progress of an item only the newest waits, and none of it once `forget` was
    called for it. Previews are left out while too many bytes of them wait; one is taken however large it is.
    """

    def __init__(self, connection: socket.socket, preview_bytes: int = PREVIEW_BYTES) -> None:
        self._connection = connection
        self._preview_bytes = preview_bytes
        self._lanes: dict[bool, queue.SimpleQueue[_Make | None]] = {
            False: queue.SimpleQueue(),
            True: queue.SimpleQueue(),
        }
        self._news: Latest[int, worker_pb2.ItemProgress] = Latest()
        self._lock = threading.Lock()
        self._waiting_bytes = 0
        self._threads = [
            threading.Thread(target=self._write, name="whylight-write", daemon=True),
            threading.Thread(target=self._encode, name="whylight-encode", daemon=True),
        ]

    def start(self) -> None:
        """Begin to write."""
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """Write what there is, and end."""
        self._lanes[True].put(None)
        for thread in self._threads:
            thread.join()

    def say(self, frame: worker_pb2.WorkerFrame) -> None:
        """Write a frame, before what waits in the slow lane."""
        self._lanes[False].put(lambda: frame)

    def deliver(self, make: _Make, *, slow: bool) -> None:
        """Write the frame that `make` makes, behind everything of its lane. It is made in a thread of ours."""
        self._lanes[slow].put(make)

    def tell(self, progress: worker_pb2.ItemProgress) -> None:
        """Write progress of an item unless there is newer, or the item is forgotten, before its turn comes."""
        if self._news.put(progress.item_id, progress):
            self._lanes[False].put(partial(self._progress, progress.item_id))

    def forget(self, item_id: int) -> None:
        """Leave out the progress of an item that waits: there is its result."""
        self._news.take(item_id)

    def show(self, preview: Preview) -> bool:
        """Encode and write a preview; return False for one that is left out."""
        with self._lock:
            if self._waiting_bytes and self._waiting_bytes + preview.size > self._preview_bytes:
                return False
            self._waiting_bytes += preview.size
        self._lanes[True].put(partial(self._preview, preview))
        return True

    def _progress(self, item_id: int) -> worker_pb2.WorkerFrame | None:
        news = self._news.take(item_id)
        return None if news is None else worker_pb2.WorkerFrame(progress=news)

    def _preview(self, preview: Preview) -> worker_pb2.WorkerFrame | None:
        try:
            return worker_pb2.WorkerFrame(preview=preview.encode())
        except Exception:  # The result is still to come: it can be done without.
            _log.exception("a preview could not be encoded")
            return None
        finally:
            with self._lock:
                self._waiting_bytes -= preview.size

    def _encode(self) -> None:
        while (make := self._lanes[True].get()) is not None:
            try:
                frame = make()
            except Exception:
                self._lanes[False].put(_failing)
                break
            if frame is not None:
                written = threading.Event()
                self._lanes[False].put(partial(_handed, frame, written))
                written.wait()
        self._lanes[False].put(None)

    def _write(self) -> None:
        try:
            while (make := self._lanes[False].get()) is not None:
                frame = make()
                if frame is not None:
                    self._send(frame)
        except OSError as error:  # Nobody listens any more; the thread that reads learns of it too and ends the loop.
            _log.error("the front end takes no more results: %s", error)
        except Exception:  # There is no memory for a frame, say: without results the process is of no use.
            _log.exception("the thread that writes failed; this process ends")
        else:
            return
        with contextlib.suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        while (make := self._lanes[False].get()) is not None:
            with contextlib.suppress(Exception):
                make()

    def _send(self, frame: worker_pb2.WorkerFrame) -> None:
        try:
            frames.send(self._connection, frame)
        except frames.FrameTooLong as error:  # Results are kept below it: this is news, which can be done without.
            _log.warning("what a worker has to say of %s is not told: %s", frame.WhichOneof("body"), error)


def _failing() -> worker_pb2.WorkerFrame:
    """Have the thread that writes end as it does when it fails itself."""
    raise RuntimeError("what long work says could not be written into a frame")


def _handed(frame: worker_pb2.WorkerFrame, written: threading.Event) -> worker_pb2.WorkerFrame:
    written.set()
    return frame
