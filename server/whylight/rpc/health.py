"""The standard health service, with Watch; knows names and states, not where the states come from.

Services are asked for by their full names, and each model by that of the service that explains with it, followed by its
own: ``whylight.v1.ExplanationService/resnet50``.

grpcio-health-checking has a servicer too, but in version 1.81 (`_async.py`) one watcher that leaves takes the condition
that the others of the same service wait on with it, and they never hear of a change again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping

from grpc_health.v1 import health_pb2, health_pb2_grpc

from whylight.errors import NotFound
from whylight.rpc.admission import draining_error
from whylight.rpc.context import Context

LIVENESS = "liveness"
"""A name that serves for as long as the process answers, loading and draining too: what a supervisor restarts it by."""

SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name


class HealthServicer(health_pb2_grpc.HealthServicer):  # type: ignore[misc]  # the package has no types
    """Tells whether the named services can answer. The empty name is the server as a whole."""

    def __init__(self, *services: str) -> None:
        self._services = frozenset({"", LIVENESS, *services})
        self._models: dict[str, bool] = {}
        self._serving = False
        self._draining = False
        self._ended = False
        self._changed = asyncio.Event()

    @property
    def serving(self) -> bool:
        """Whether the services serve."""
        return self._serving

    def set(self, serving: bool, models: Mapping[str, bool] | None = None) -> None:
        """Set the state of all services, and tell the watchers. A server that drains stays at NOT_SERVING.

        `models` tells of the models, by the names that health has for them, whether each answers calls; None leaves
        that as it is.
        """
        self._serving = serving and not self._draining
        if models is not None:
            self._models = dict(models)
        self._notify()

    def drain(self) -> None:
        """Set all services to NOT_SERVING for good."""
        self._draining = True
        self.set(False)

    def end(self) -> None:
        """End all watches: they would keep the server from stopping."""
        self._ended = True
        self._notify()

    async def Check(self, request: health_pb2.HealthCheckRequest, context: Context) -> health_pb2.HealthCheckResponse:
        """Return the state of a service."""
        if not self._knows(request.service):
            raise NotFound(f"there is no service {request.service!r}", reason="SERVICE_NOT_FOUND", field="service")
        return health_pb2.HealthCheckResponse(status=self._status(request.service))

    async def Watch(
        self, request: health_pb2.HealthCheckRequest, context: Context
    ) -> AsyncIterator[health_pb2.HealthCheckResponse]:
        """Yield the state of a service, and then every change of it. A reader that is slow gets the newest one only."""
        told = None
        while not self._ended:
            changed = self._changed
            status = self._status(request.service)
            if status != told:
                told = status
                yield health_pb2.HealthCheckResponse(status=status)
            else:
                await changed.wait()
        raise draining_error()

    def _notify(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def _knows(self, service: str) -> bool:
        return service in self._services or service in self._models

    def _status(self, service: str) -> health_pb2.HealthCheckResponse.ServingStatus:
        if not self._knows(service):
            return health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        serving = (self._serving and self._models.get(service, True)) or service == LIVENESS
        return health_pb2.HealthCheckResponse.SERVING if serving else health_pb2.HealthCheckResponse.NOT_SERVING
