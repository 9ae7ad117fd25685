"""What a server offers, as a caller holds it: methods, models, plugins, the server itself; knows no connection."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from whylight.limits import Limits
from whylight.v1 import catalog_pb2 as pb
from whylight.v1.explanation_pb2 import DataType
from whylight.wire import struct_to_dict


@dataclass(frozen=True)
class MethodInfo:
    """A method. `kind` is attribution, synthesis or inspection; `options_schema` (JSON schema) is left out of lists.

    `target_use` says whether a call names targets: none (they are refused), optional, required, or by-options.
    `pictures` are those that a call gives, in order: "start?" may be left out, "pictures+" is one or more, "pictures*"
    any number.
    """

    name: str
    summary: str
    version: str
    kind: str
    needs: tuple[str, ...]
    reference: str
    plugin: str
    options_schema: Mapping[str, Any] = field(default_factory=dict)
    target_use: str = ""
    pictures: tuple[str, ...] = ()


@dataclass(frozen=True)
class MetricInfo:
    """A metric of maps; `options_schema` (JSON schema) is left out of lists."""

    name: str
    summary: str
    version: str
    higher_is_better: bool
    needs: tuple[str, ...]
    reference: str
    plugin: str
    options_schema: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LayerInfo:
    """A layer of a model. `output_shape` is for one input, without the batch; empty when it gives no single tensor."""

    name: str
    type: str
    output_shape: tuple[int, ...]
    parameter_count: int


@dataclass(frozen=True)
class CompanionInfo:
    """What a model takes besides the picture: float32 or int64 (from `low` to `high`); -1 in a shape is any length."""

    dtype: str
    shape: tuple[int, ...]
    low: int
    high: int


@dataclass(frozen=True)
class ModelInfo:
    """A served model. `input_size` is (width, height) after the transform; labels and layers are left out of lists.

    `companions` are what an `Input` must have besides the picture, by name. `state` is ready, or else why it does not
    answer calls: unloaded, loading, unloading, failed. `generation` counts its loads in the server's life.
    """

    name: str
    source: str
    digest: str
    default: bool
    input_channels: int
    input_size: tuple[int, int]
    class_count: int
    labels: tuple[str, ...]
    layers: tuple[LayerInfo, ...]
    last_spatial_layer: str
    capabilities: tuple[str, ...]
    precision: str
    device: str
    batch_invariant: bool
    parameter_count: int
    companions: Mapping[str, CompanionInfo] = field(default_factory=dict)
    state: str = "ready"
    generation: int = 1


@dataclass(frozen=True)
class PluginInfo:
    """A plugin. `state` is active, blocked or failed; `error` says why it failed."""

    name: str
    distribution: str
    version: str
    state: str
    error: str
    methods: tuple[str, ...]
    model_sources: tuple[str, ...]
    metrics: tuple[str, ...] = ()


@dataclass(frozen=True)
class ServerInfo:
    """Facts about a server: versions, devices, whether native operators are in use, what it refuses to go beyond."""

    version: str
    library_versions: Mapping[str, str]
    native_operators: str
    devices: tuple[str, ...]
    start_time: datetime
    limits: Limits


def method_from_proto(message: pb.Method) -> MethodInfo:
    """Return a message as a method."""
    return MethodInfo(
        message.name,
        message.summary,
        message.version,
        _word(pb.MethodKind, message.kind, "METHOD_KIND_"),
        tuple(message.needs),
        message.reference,
        message.plugin,
        struct_to_dict(message.options_schema, "options_schema"),
        _word(pb.TargetUse, message.target_use, "TARGET_USE_").replace("_", "-"),
        tuple(map(_picture, message.pictures)),
    )


def _picture(message: pb.TakenPicture) -> str:
    how = {(True, True): "*", (False, True): "+", (True, False): "?"}
    return message.name + how.get((message.optional, message.several), "")


def metric_from_proto(message: pb.Metric) -> MetricInfo:
    """Return a message as a metric."""
    return MetricInfo(
        message.name,
        message.summary,
        message.version,
        message.higher_is_better,
        tuple(message.needs),
        message.reference,
        message.plugin,
        struct_to_dict(message.options_schema, "options_schema"),
    )


def model_from_proto(message: pb.Model) -> ModelInfo:
    """Return a message as a model."""
    return ModelInfo(
        message.name,
        message.source,
        message.digest,
        message.default,
        message.input_channels,
        (message.input_size.width, message.input_size.height),
        message.class_count,
        tuple(message.labels),
        tuple(
            LayerInfo(layer.name, layer.type, tuple(layer.output_shape), layer.parameter_count)
            for layer in message.layers
        ),
        message.last_spatial_layer,
        tuple(message.capabilities),
        message.precision,
        message.device,
        message.batch_invariant,
        message.parameter_count,
        {
            name: CompanionInfo(_word(DataType, one.dtype, "DATA_TYPE_"), tuple(one.shape), one.low, one.high)
            for name, one in message.companions.items()
        },
        _word(pb.ModelState, message.state, "MODEL_STATE_"),
        message.generation,
    )


def plugin_from_proto(message: pb.Plugin) -> PluginInfo:
    """Return a message as a plugin."""
    return PluginInfo(
        message.name,
        message.distribution,
        message.version,
        _word(pb.PluginState, message.state, "PLUGIN_STATE_"),
        message.error,
        tuple(message.methods),
        tuple(message.model_sources),
        tuple(message.metrics),
    )


def server_info_from_proto(message: pb.GetServerInfoResponse) -> ServerInfo:
    """Return a message as facts about the server."""
    limits = message.limits
    return ServerInfo(
        message.version,
        dict(message.library_versions),
        message.native_operators,
        tuple(message.devices),
        message.start_time.ToDatetime(timezone.utc),
        Limits(
            limits.message_bytes,
            limits.inputs,
            limits.image_pixels,
            limits.tensor_elements,
            limits.targets,
            limits.outputs,
            limits.options_bytes,
            limits.methods,
            limits.synthesis_pixels,
        ),
    )


def _word(kind: Any, number: int, prefix: str) -> str:
    """Return an enum number as a word; one that this version does not know keeps its number."""
    value = kind.DESCRIPTOR.values_by_number.get(number)
    return str(number) if value is None else value.name.removeprefix(prefix).lower()
