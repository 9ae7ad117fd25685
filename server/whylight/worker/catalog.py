"""What a worker offers, as messages: methods, models, plugins, versions; knows nothing of how they are asked for."""

from __future__ import annotations

import importlib.metadata
import logging
import platform
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch

from whylight.errors import WhylightError
from whylight.method import Attribution, Inspection, Method, Synthesis
from whylight.ops import native_status
from whylight.options import PlainOptions
from whylight.v1 import catalog_pb2 as v1
from whylight.v1.explanation_pb2 import Size
from whylight.wire import dict_to_struct
from whylight.worker.v1 import worker_pb2

if TYPE_CHECKING:
    from whylight.models import Model
    from whylight.plugins import OfferedMethod, OfferedMetric, PluginInfo

_log = logging.getLogger(__name__)

_LIBRARIES = ("whylight", "torch", "torchvision", "timm", "numpy", "pillow")
"""Distributions whose versions matter to the numbers."""

_KINDS: dict[type[Method], v1.MethodKind] = {
    Attribution: v1.METHOD_KIND_ATTRIBUTION,
    Synthesis: v1.METHOD_KIND_SYNTHESIS,
    Inspection: v1.METHOD_KIND_INSPECTION,
}

_STATES = {
    "active": v1.PLUGIN_STATE_ACTIVE,
    "blocked": v1.PLUGIN_STATE_BLOCKED,
    "failed": v1.PLUGIN_STATE_FAILED,
}


def ready_to_proto(
    models: Mapping[str, Model],
    methods: Mapping[str, OfferedMethod],
    plugins: Iterable[PluginInfo],
    metrics: Mapping[str, OfferedMetric] | None = None,
    *,
    default_model: str,
    device: torch.device,
    generations: Mapping[str, int] | None = None,
    measured: Mapping[str, str] | None = None,
) -> worker_pb2.Ready:
    """Return everything that a worker offers, each list in the order of its names."""
    return worker_pb2.Ready(
        methods=[method_to_proto(methods[name]) for name in sorted(methods)],
        models=[
            model_to_proto(models[name], default=name == default_model, generation=(generations or {}).get(name, 1))
            for name in sorted(models)
        ],
        plugins=[plugin_to_proto(info) for info in sorted(plugins, key=lambda info: info.name)],
        library_versions=library_versions(),
        native_operators=native_status().description,
        device=str(device),
        metrics=[metric_to_proto(metric) for _, metric in sorted((metrics or {}).items())],
        measured=measured,
    )


def method_to_proto(offered: OfferedMethod) -> v1.Method:
    """Return a method as a message, with the JSON schema of its options."""
    method = offered.method
    message = v1.Method(
        name=method.name,
        summary=method.summary(),
        version=method.version,
        kind=next((kind for base, kind in _KINDS.items() if isinstance(method, base)), v1.METHOD_KIND_UNSPECIFIED),
        needs=sorted(need.value for need in method.needs),
        reference=method.reference,
        plugin=offered.plugin,
        target_use=f"TARGET_USE_{method.target_use().name}",
        pictures=[
            v1.TakenPicture(name=taken.rstrip("?+*"), optional=taken[-1] in "?*", several=taken[-1] in "+*")
            for taken in method.takes
        ],
    )
    _put_schema(message, method.Options)
    return message


def metric_to_proto(offered: OfferedMetric) -> v1.Metric:
    """Return a metric as a message, with the JSON schema of its options."""
    metric = offered.metric
    message = v1.Metric(
        name=metric.name,
        summary=metric.summary(),
        version=metric.version,
        higher_is_better=metric.higher_is_better,
        needs=sorted(need.value for need in metric.needs),
        reference=metric.reference,
        plugin=offered.plugin,
    )
    _put_schema(message, metric.Options)
    return message


def _put_schema(message: v1.Method | v1.Metric, options: type[PlainOptions]) -> None:
    try:
        message.options_schema.CopyFrom(dict_to_struct(options.model_json_schema(), "options_schema"))
    except WhylightError as error:  # such as a bound above 2**53: the method works, its schema just cannot travel
        _log.warning("the schema of the options of %r is left out of the catalog: %s", message.name, error)


def model_to_proto(model: Model, *, default: bool = False, generation: int = 1) -> v1.Model:
    """Return a version of a model as a message, with its layers and labels."""
    height, width = model.input_size
    return v1.Model(
        name=model.name,
        source=model.source,
        digest=model.digest,
        default=default,
        input_channels=model.input_channels,
        input_size=Size(width=width, height=height),
        class_count=model.class_count,
        labels=model.labels,
        layers=[
            v1.Layer(
                name=layer.name,
                type=layer.type,
                output_shape=layer.output_shape,
                parameter_count=layer.parameter_count,
            )
            for layer in model.layers
        ],
        last_spatial_layer=model.last_spatial or "",
        capabilities=sorted([need.value for need in model.capabilities] + ["detections"] * bool(model.detections)),
        precision=model.precision,
        device=str(model.device),
        batch_invariant=model.batch_invariant,
        parameter_count=model.parameter_count,
        companions={
            name: v1.Companion(dtype=f"DATA_TYPE_{one.dtype.upper()}", shape=one.shape, low=one.low, high=one.high)
            for name, one in model.companions.items()
        },
        state=v1.MODEL_STATE_READY,
        generation=generation,
    )


def plugin_to_proto(info: PluginInfo) -> v1.Plugin:
    """Return what became of a plugin as a message."""
    return v1.Plugin(
        name=info.name,
        distribution=info.distribution,
        version=info.version,
        state=_STATES[info.state],
        error=info.error,
        methods=info.methods,
        model_sources=info.model_sources,
        metrics=info.metrics,
    )


def library_versions() -> dict[str, str]:
    """Return the versions of what computes the numbers: libraries, Python, CUDA."""
    versions = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    if torch.cuda.is_available():
        versions["cuda"] = torch.version.cuda or ""
        versions["cudnn"] = str(torch.backends.cudnn.version())  # type: ignore[no-untyped-call]
    return versions
