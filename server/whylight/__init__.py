"""whylight: an explanation server for PyTorch vision networks.

The names below are the public ones, for callers and for plugin authors. They load on first use: importing
``whylight`` imports neither torch nor pluggy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whylight import ops as ops
    from whylight import synthesis as synthesis
    from whylight.artifact import Artifact, Box, Boxes, Map, Picture, Point, Points, Table
    from whylight.baselines import BASELINES, BaselineKind, baseline, describe_baselines
    from whylight.calls import MethodCall, MetricCall
    from whylight.client import AdminClient, AsyncClient, Client
    from whylight.data_set import DataSet, DataSets
    from whylight.errors import InvalidInput, NotFound, Unsupported, WhylightError
    from whylight.evaluation import Evaluation, RankedMethod, Ranking
    from whylight.explanation import Explained, Explanation, Measurement, Prediction
    from whylight.hookspecs import hookimpl
    from whylight.in_process import explain
    from whylight.in_process_evaluate import evaluate
    from whylight.in_process_long import inspect, synthesise
    from whylight.made import (
        InspectionProgress,
        InspectionResult,
        SynthesisFailure,
        SynthesisPreview,
        SynthesisProgress,
        SynthesisResult,
    )
    from whylight.method import (
        Attribution,
        Batch,
        Inspected,
        Inspection,
        InspectionTask,
        Maps,
        Method,
        Need,
        Pause,
        Presentation,
        Progress,
        Synthesis,
        Synthesised,
        SynthesisTask,
        TargetUse,
    )
    from whylight.metric import Curve, Explain, Measured, Metric
    from whylight.models import Companion, Model, ModelSource, OpenedModel, Transform
    from whylight.options import LAST_SPATIAL, Layer, Options, PlainOptions, ServedModel
    from whylight.outputs import BoxesOutput, Canvas, MapOutput, MaskOutput, PictureFormat, PictureOutput, PictureStyle
    from whylight.priority import Priority
    from whylight.profile import PROFILES, Profile
    from whylight.subject import Altered, BackwardRule, DeconvnetRelu, FunctionCall, GuidedRelu, Subject
    from whylight.target import (
        ClassIndex,
        ClassLabel,
        Contrast,
        Detection,
        Latent,
        Neuron,
        Objective,
        OutputIndex,
        Rank,
        Region,
        Similarity,
        Target,
    )

__version__ = "0.1.0"

_HOMES = {
    "artifact": ("Artifact", "Box", "Boxes", "Map", "Picture", "Point", "Points", "Table"),
    "baselines": ("BASELINES", "BaselineKind", "baseline", "describe_baselines"),
    "calls": ("MethodCall", "MetricCall"),
    "client": ("AdminClient", "AsyncClient", "Client"),
    "data_set": ("DataSet", "DataSets"),
    "errors": ("InvalidInput", "NotFound", "Unsupported", "WhylightError"),
    "evaluation": ("Evaluation", "RankedMethod", "Ranking"),
    "explanation": ("Explained", "Explanation", "Measurement", "Prediction"),
    "hookspecs": ("hookimpl",),
    "in_process": ("explain",),
    "in_process_evaluate": ("evaluate",),
    "in_process_long": ("inspect", "synthesise"),
    "made": (
        "InspectionProgress",
        "InspectionResult",
        "SynthesisFailure",
        "SynthesisPreview",
        "SynthesisProgress",
        "SynthesisResult",
    ),
    "method": (
        "Attribution",
        "Batch",
        "Inspected",
        "Inspection",
        "InspectionTask",
        "Maps",
        "Method",
        "Need",
        "Pause",
        "Presentation",
        "Progress",
        "Synthesised",
        "Synthesis",
        "SynthesisTask",
        "TargetUse",
    ),
    "metric": ("Curve", "Explain", "Measured", "Metric"),
    "models": ("Companion", "Model", "ModelSource", "OpenedModel", "Transform"),
    "options": ("LAST_SPATIAL", "Layer", "Options", "PlainOptions", "ServedModel"),
    "outputs": ("BoxesOutput", "Canvas", "MapOutput", "MaskOutput", "PictureFormat", "PictureOutput", "PictureStyle"),
    "priority": ("Priority",),
    "profile": ("PROFILES", "Profile"),
    "subject": ("Altered", "BackwardRule", "DeconvnetRelu", "FunctionCall", "GuidedRelu", "Subject"),
    "target": (
        "ClassIndex",
        "ClassLabel",
        "Contrast",
        "Detection",
        "Latent",
        "Neuron",
        "Objective",
        "OutputIndex",
        "Rank",
        "Region",
        "Similarity",
        "Target",
    ),
}
_NAMESPACES = ("ops", "synthesis")
_HOME = {name: module for module, names in _HOMES.items() for name in names}

__all__ = [
    "BASELINES",
    "LAST_SPATIAL",
    "PROFILES",
    "AdminClient",
    "Altered",
    "Artifact",
    "AsyncClient",
    "Attribution",
    "BackwardRule",
    "BaselineKind",
    "Batch",
    "Box",
    "Boxes",
    "BoxesOutput",
    "Canvas",
    "ClassIndex",
    "ClassLabel",
    "Client",
    "Companion",
    "Contrast",
    "Curve",
    "DataSet",
    "DataSets",
    "DeconvnetRelu",
    "Detection",
    "Evaluation",
    "Explain",
    "Explained",
    "Explanation",
    "FunctionCall",
    "GuidedRelu",
    "Inspected",
    "Inspection",
    "InspectionProgress",
    "InspectionResult",
    "InspectionTask",
    "InvalidInput",
    "Latent",
    "Layer",
    "Map",
    "MapOutput",
    "Maps",
    "MaskOutput",
    "Measured",
    "Measurement",
    "Method",
    "MethodCall",
    "Metric",
    "MetricCall",
    "Model",
    "ModelSource",
    "Need",
    "Neuron",
    "NotFound",
    "Objective",
    "OpenedModel",
    "Options",
    "OutputIndex",
    "Pause",
    "Picture",
    "PictureFormat",
    "PictureOutput",
    "PictureStyle",
    "PlainOptions",
    "Point",
    "Points",
    "Prediction",
    "Presentation",
    "Priority",
    "Profile",
    "Progress",
    "Rank",
    "RankedMethod",
    "Ranking",
    "Region",
    "ServedModel",
    "Similarity",
    "Subject",
    "Synthesis",
    "SynthesisFailure",
    "SynthesisPreview",
    "SynthesisProgress",
    "SynthesisResult",
    "SynthesisTask",
    "Synthesised",
    "Table",
    "Target",
    "TargetUse",
    "Transform",
    "Unsupported",
    "WhylightError",
    "baseline",
    "describe_baselines",
    "evaluate",
    "explain",
    "hookimpl",
    "inspect",
    "ops",
    "synthesis",
    "synthesise",
]


def __getattr__(name: str) -> Any:
    if name in _NAMESPACES:
        return importlib.import_module(f"whylight.{name}")
    if name in _HOME:
        value = getattr(importlib.import_module(f"whylight.{_HOME[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'whylight' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
