"""The thread that loads and forgets models while others work, one after the other; knows no model and no socket."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Protocol

from whylight.worker.v1 import worker_pb2


class Loading(Protocol):
    """What does it. Called from one thread; raises nothing."""

    def load(self, request: worker_pb2.LoadModel) -> worker_pb2.ModelLoaded:
        """Load a version of a model."""

    def unload(self, request: worker_pb2.UnloadModel) -> worker_pb2.ModelUnloaded:
        """Forget a version of a model."""


class Loader:
    """Takes requests from any thread and serves them in their order, in a daemon thread: a load cannot be stopped."""

    def __init__(self, service: Loading) -> None:
        self._service = service
        self._requests: queue.SimpleQueue[worker_pb2.LoadModel | worker_pb2.UnloadModel] = queue.SimpleQueue()
        self._open = 0
        self._lock = threading.Lock()

    @property
    def busy(self) -> bool:
        """Whether something is being done, or waits to be."""
        return self._open > 0

    def start(self, say: Callable[[worker_pb2.WorkerFrame], None]) -> None:
        """Begin, and `say` what becomes of each request."""
        threading.Thread(target=self._serve, args=(say,), name="whylight-load", daemon=True).start()

    def load(self, request: worker_pb2.LoadModel) -> None:
        """Have a version of a model loaded."""
        self._put(request)

    def unload(self, request: worker_pb2.UnloadModel) -> None:
        """Have a version of a model forgotten."""
        self._put(request)

    def _put(self, request: worker_pb2.LoadModel | worker_pb2.UnloadModel) -> None:
        with self._lock:
            self._open += 1
        self._requests.put(request)

    def _serve(self, say: Callable[[worker_pb2.WorkerFrame], None]) -> None:
        while True:
            request = self._requests.get()
            if isinstance(request, worker_pb2.LoadModel):
                frame = worker_pb2.WorkerFrame(loaded=self._service.load(request))
            else:
                frame = worker_pb2.WorkerFrame(unloaded=self._service.unload(request))
            del request
            say(frame)
            del frame
            with self._lock:
                self._open -= 1
