"""Which RPC a call is of: its service, its name, its kind; knows no handler's work."""

from __future__ import annotations

from typing import Any

import grpc
from google.protobuf import descriptor_pool

from whylight.open_inference.messages import POOL as OPEN_INFERENCE_POOL
from whylight.telemetry.calls import Rpc

_TYPES = {
    (False, False): "unary",
    (False, True): "server_stream",
    (True, False): "client_stream",
    (True, True): "bidi_stream",
}

UNKNOWN_RPC = Rpc("unknown", "unknown", "unary")
"""Whatever is asked for that there is no handler of."""


class Rpcs:
    """Remembers the RPCs that there are handlers of: as many as the services have, whatever clients ask for."""

    def __init__(self) -> None:
        self._known: dict[str, Rpc] = {}

    def rpc(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> Rpc:
        """Return the RPC of a call, such as ``/whylight.v1.ExplanationService/Explain``."""
        known = self._known.get(name)
        if known is None:
            service, _, method = name.removeprefix("/").rpartition("/")
            known = self._known[name] = Rpc(service, method, _described(service, method) or _type(handler))
        return known


def _described(service: str, method: str) -> str | None:
    """Return the type as the service's description has it: a refused call has a handler of another type."""
    for pool in (descriptor_pool.Default(), OPEN_INFERENCE_POOL):
        try:
            found = pool.FindServiceByName(service).methods_by_name.get(method)
        except KeyError:
            continue
        return _TYPES[found.client_streaming, found.server_streaming] if found else None
    return None


def _type(handler: grpc.RpcMethodHandler[Any, Any]) -> str:
    return _TYPES[bool(handler.request_streaming), bool(handler.response_streaming)]
