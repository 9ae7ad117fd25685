"""CatalogService: lists what the workers have told, page by page; knows neither workers nor how anything runs."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeVar

from google.protobuf.timestamp_pb2 import Timestamp

import whylight
from whylight.errors import NotFound
from whylight.limits import Limits
from whylight.rpc.backend import Backend
from whylight.rpc.context import Context
from whylight.rpc.explaining import loaded_catalog
from whylight.rpc.pages import Named, page
from whylight.v1 import catalog_pb2 as v1
from whylight.v1 import catalog_pb2_grpc

Thing = TypeVar("Thing", bound=Named)


class CatalogServicer(catalog_pb2_grpc.CatalogServiceServicer):
    """Answers CatalogService. Raises typed errors; the interceptor makes statuses of them."""

    def __init__(self, backend: Backend, limits: Limits, *, default_model: str) -> None:
        self._backend = backend
        self._limits = limits
        self._default_model = default_model
        self._start_time = Timestamp()
        self._start_time.GetCurrentTime()

    async def ListMethods(self, request: v1.ListMethodsRequest, context: Context) -> v1.ListMethodsResponse:
        """List the methods, without their schemas."""
        methods, token = page(
            loaded_catalog(self._backend).methods, request.page_size, request.page_token, kind="methods"
        )
        response = v1.ListMethodsResponse(methods=methods, next_page_token=token)
        for method in response.methods:
            method.ClearField("options_schema")
        return response

    async def GetMethod(self, request: v1.GetMethodRequest, context: Context) -> v1.GetMethodResponse:
        """Describe one method."""
        method = find(loaded_catalog(self._backend).methods, request.name, kind="method", field="name")
        return v1.GetMethodResponse(method=method)

    async def ListMetrics(self, request: v1.ListMetricsRequest, context: Context) -> v1.ListMetricsResponse:
        """List the metrics, without their schemas."""
        metrics, token = page(
            loaded_catalog(self._backend).metrics, request.page_size, request.page_token, kind="metrics"
        )
        response = v1.ListMetricsResponse(metrics=metrics, next_page_token=token)
        for metric in response.metrics:
            metric.ClearField("options_schema")
        return response

    async def GetMetric(self, request: v1.GetMetricRequest, context: Context) -> v1.GetMetricResponse:
        """Describe one metric."""
        metric = find(loaded_catalog(self._backend).metrics, request.name, kind="metric", field="name")
        return v1.GetMetricResponse(metric=metric)

    async def ListModels(self, request: v1.ListModelsRequest, context: Context) -> v1.ListModelsResponse:
        """List the models, without labels and layers."""
        models, token = page(loaded_catalog(self._backend).models, request.page_size, request.page_token, kind="models")
        response = v1.ListModelsResponse(models=models, next_page_token=token)
        for model in response.models:
            model.ClearField("labels")
            model.ClearField("layers")
            model.default = model.name == self._default_model
        return response

    async def GetModel(self, request: v1.GetModelRequest, context: Context) -> v1.GetModelResponse:
        """Describe one model; the default one when none is named."""
        name = request.name or self._default_model
        response = v1.GetModelResponse(
            model=find(loaded_catalog(self._backend).models, name, kind="model", field="name")
        )
        response.model.default = name == self._default_model
        return response

    async def ListPlugins(self, request: v1.ListPluginsRequest, context: Context) -> v1.ListPluginsResponse:
        """List the plugins that were found."""
        plugins, token = page(
            loaded_catalog(self._backend).plugins, request.page_size, request.page_token, kind="plugins"
        )
        return v1.ListPluginsResponse(plugins=plugins, next_page_token=token)

    async def GetServerInfo(self, request: v1.GetServerInfoRequest, context: Context) -> v1.GetServerInfoResponse:
        """Describe the server."""
        catalog = loaded_catalog(self._backend)
        limits = self._limits
        return v1.GetServerInfoResponse(
            version=whylight.__version__,
            library_versions=catalog.library_versions,
            native_operators=catalog.native_operators,
            devices=self._backend.devices,
            start_time=self._start_time,
            limits=v1.Limits(
                message_bytes=limits.message_bytes,
                inputs=limits.inputs,
                image_pixels=limits.image_pixels,
                tensor_elements=limits.tensor_elements,
                targets=limits.targets,
                outputs=limits.outputs,
                options_bytes=limits.options_bytes,
                methods=limits.methods,
                synthesis_pixels=limits.synthesis_pixels,
            ),
        )


def find(things: Iterable[Thing], name: str, *, kind: str, field: str) -> Thing:
    """Return the thing of this name.

    Raises:
        NotFound: there is none; the message names close ones.
    """
    names = []
    for thing in things:
        if thing.name == name:
            return thing
        names.append(thing.name)
    close = difflib.get_close_matches(name[:256], names)
    hint = f"; did you mean {', '.join(map(repr, close))}?" if close else ""
    raise NotFound(
        f"there is no {kind} {name!r}{hint}", reason=f"{kind.upper()}_NOT_FOUND", field=field, metadata={kind: name}
    )
