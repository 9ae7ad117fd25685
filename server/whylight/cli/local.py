"""The catalog of this installation in the words of a server's: what plugins and models are here; asks no server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from whylight.client.catalog import LayerInfo, MethodInfo, ModelInfo, PluginInfo
from whylight.errors import NotFound

if TYPE_CHECKING:
    from whylight.method import Method
    from whylight.plugins import OfferedMethod, Plugins

DEFAULT_MODEL = "demo:efficientnet-lite0"


def load_plugins() -> Plugins:
    """Load every installed plugin."""
    from whylight.plugins import Plugins

    plugins = Plugins()
    plugins.load()
    return plugins


def local_methods() -> list[MethodInfo]:
    """Return the methods of the installed plugins, in the order of their names."""
    return [_method(offered) for _, offered in sorted(load_plugins().methods.items())]


def local_method(name: str) -> MethodInfo:
    """Return one method.

    Raises:
        NotFound: no installed plugin offers it.
    """
    methods = load_plugins().methods
    if name not in methods:
        raise NotFound(
            f"there is no method {name!r}; there are {', '.join(sorted(methods))}", reason="METHOD_NOT_FOUND"
        )
    return _method(methods[name])


def local_plugins() -> list[PluginInfo]:
    """Return the installed plugins, also those that do not work, and why."""
    return [
        PluginInfo(
            info.name,
            info.distribution,
            info.version,
            info.state,
            info.error,
            tuple(info.methods),
            tuple(info.model_sources),
        )
        for info in load_plugins().infos.values()
    ]


def local_sources() -> list[tuple[str, str]]:
    """Return the schemes of model sources and the plugins that offer them."""
    return [(scheme, info.name) for info in load_plugins().infos.values() for scheme in info.model_sources]


def local_model(name: str) -> ModelInfo:
    """Open a model by its source, such as ``torchvision:resnet50``, and describe it."""
    import torch

    from whylight.models import ModelConfig, open_model
    from whylight.models.source import unplaced_name

    sources = load_plugins().sources
    if ":" not in name:
        raise unplaced_name(name, sources)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = open_model(ModelConfig(name=name, source=name), sources, device)
    height, width = model.input_size
    return ModelInfo(
        name=model.name,
        source=model.source,
        digest=model.digest,
        default=name == DEFAULT_MODEL,
        input_channels=model.input_channels,
        input_size=(width, height),
        class_count=model.class_count,
        labels=tuple(model.labels),
        layers=tuple(
            LayerInfo(layer.name, layer.type, tuple(layer.output_shape or ()), layer.parameter_count)
            for layer in model.layers
        ),
        last_spatial_layer=model.last_spatial or "",
        capabilities=tuple(sorted(need.value for need in model.capabilities)),
        precision=model.precision,
        device=str(model.device),
        batch_invariant=model.batch_invariant,
        parameter_count=model.parameter_count,
    )


def _method(offered: OfferedMethod) -> MethodInfo:
    method = offered.method
    return MethodInfo(
        method.name,
        method.summary(),
        method.version,
        _kind(method),
        tuple(sorted(need.value for need in method.needs)),
        method.reference,
        offered.plugin,
        method.Options.model_json_schema(),
        method.target_use().value,
        method.takes,
    )


def _kind(method: Method) -> str:
    from whylight.method import Inspection, Synthesis

    kinds = ((Synthesis, "synthesis"), (Inspection, "inspection"))
    return next((name for kind, name in kinds if isinstance(method, kind)), "attribution")
