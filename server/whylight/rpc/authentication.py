"""Asks every call for its token, before anything of its message is read; knows what each call needs, not what it does.

The name of the caller is then at hand in `whylight.security.current_caller`, for logs, counts and queues.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import grpc
import grpc.aio

from whylight.errors import PermissionDenied, Unauthenticated, WhylightError
from whylight.rpc.bounded import refusal
from whylight.security import Access, Scope, bearer_token, set_caller

log = logging.getLogger(__name__)

FREE = frozenset(
    {
        "/grpc.health.v1.Health/Check",
        "/grpc.health.v1.Health/Watch",
        "/grpc.health.v1.Health/List",
        "/inference.GRPCInferenceService/ServerLive",
        "/inference.GRPCInferenceService/ServerReady",
        "/inference.GRPCInferenceService/ModelReady",
    }
)
"""Calls that probes and load balancers make, who have no token. They tell of states, and nothing else."""

SCOPES: Mapping[str, Scope] = {
    "whylight.v1.ExplanationService": Scope.EXPLAIN,
    "whylight.v1.CatalogService": Scope.CATALOG,
    "whylight.v1.AdminService": Scope.ADMIN,
    "grpc.reflection.v1.ServerReflection": Scope.CATALOG,
    "grpc.reflection.v1alpha.ServerReflection": Scope.CATALOG,
    "inference.GRPCInferenceService": Scope.CATALOG,
    "/inference.GRPCInferenceService/ModelInfer": Scope.EXPLAIN,
    "/inference.GRPCInferenceService/ModelStreamInfer": Scope.EXPLAIN,
}
"""What each service needs, and each call that differs from its service. What is not here is refused to everybody."""


def scope_of(method: str) -> Scope | None:
    """Return what a call such as ``/whylight.v1.CatalogService/ListModels`` needs, None when nobody has said."""
    return SCOPES.get(method) or SCOPES.get(method.removeprefix("/").partition("/")[0])


class Authentication(grpc.aio.ServerInterceptor):
    """Lets a call through to its handler, or gives it one that fails. Comes within `Guard`, which makes statuses."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Check the caller and set who it is for the task of the call."""
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in FREE:
            return handler
        try:
            self._check(method, handler_call_details.invocation_metadata)
        except WhylightError as error:
            return refusal(error)
        return handler

    def _check(self, method: str, metadata: Any) -> None:
        scope = scope_of(method)
        if scope is None:
            log.error("%s: nobody has said which scope it needs, so it is refused", method)
            raise PermissionDenied("this call is closed", reason="CALL_CLOSED")
        entries = [value for key, value in metadata or () if key == "authorization"]
        if len(entries) > 1 and self._access.needs_token:
            raise Unauthenticated("the call has more than one authorization", reason="TOKEN_MISSING")
        set_caller(self._access.check(bearer_token(entries[0]) if entries else None, scope))
        if scope is not Scope.EXPLAIN:  # those are counted at the door, each request of a stream for itself
            self._access.charge_call()
