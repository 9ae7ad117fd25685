"""The questions to the catalog as steps without a transport: each yields messages to send and is sent the answers.

So the blocking and the asyncio client share every step, and differ only in how a message travels.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from google.protobuf.message import Message

from whylight.client import catalog
from whylight.v1 import catalog_pb2 as pb

Answered = TypeVar("Answered")
Item = TypeVar("Item")

_PAGE = 1000


@dataclass(frozen=True)
class Send:
    """Asks the client to send `message` by the call `rpc`, and to send back the answer."""

    rpc: str
    message: Message


Steps: TypeAlias = Generator[Send, Any, Answered]


def list_methods() -> Steps[list[catalog.MethodInfo]]:
    """Ask for all methods, page by page."""
    return _all_pages("ListMethods", pb.ListMethodsRequest, "methods", catalog.method_from_proto)


def list_metrics() -> Steps[list[catalog.MetricInfo]]:
    """Ask for all metrics, page by page."""
    return _all_pages("ListMetrics", pb.ListMetricsRequest, "metrics", catalog.metric_from_proto)


def get_metric(name: str) -> Steps[catalog.MetricInfo]:
    """Ask for one metric."""
    answer = yield Send("GetMetric", pb.GetMetricRequest(name=name))
    return catalog.metric_from_proto(answer.metric)


def list_models() -> Steps[list[catalog.ModelInfo]]:
    """Ask for all models, page by page."""
    return _all_pages("ListModels", pb.ListModelsRequest, "models", catalog.model_from_proto)


def list_plugins() -> Steps[list[catalog.PluginInfo]]:
    """Ask for all plugins, page by page."""
    return _all_pages("ListPlugins", pb.ListPluginsRequest, "plugins", catalog.plugin_from_proto)


def get_method(name: str) -> Steps[catalog.MethodInfo]:
    """Ask for one method."""
    answer = yield Send("GetMethod", pb.GetMethodRequest(name=name))
    return catalog.method_from_proto(answer.method)


def get_model(name: str) -> Steps[catalog.ModelInfo]:
    """Ask for one model."""
    answer = yield Send("GetModel", pb.GetModelRequest(name=name))
    return catalog.model_from_proto(answer.model)


def get_server_info() -> Steps[catalog.ServerInfo]:
    """Ask for the facts about the server."""
    answer = yield Send("GetServerInfo", pb.GetServerInfoRequest())
    return catalog.server_info_from_proto(answer)


def _all_pages(rpc: str, request: Callable[..., Message], field: str, read: Callable[[Any], Item]) -> Steps[list[Item]]:
    items: list[Item] = []
    token = ""
    while True:
        answer = yield Send(rpc, request(page_size=_PAGE, page_token=token))
        items += map(read, getattr(answer, field))
        token = answer.next_page_token
        if not token:
            return items
