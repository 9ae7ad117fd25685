"""The client of a whylight server, blocking and asyncio; imports neither torch nor pluggy.

>>> with whylight.Client("localhost:50051") as client:
...     explained = client.explain("cat.jpg", "grad-cam", outputs=[whylight.PictureOutput()])
...     explained.explanation.save("why.png")
"""

from __future__ import annotations

from whylight.calls import MethodCall, MetricCall
from whylight.client.admin_client import AdminClient, ModelStatus, ModelWorker
from whylight.client.async_client import AsyncClient
from whylight.client.catalog import LayerInfo, MethodInfo, ModelInfo, PluginInfo, ServerInfo
from whylight.client.connection import tls_credentials, token_from_file
from whylight.client.requests import Answer, Input, Request, Result
from whylight.client.sync_client import Client
from whylight.made import (
    InspectionProgress,
    InspectionResult,
    SynthesisFailure,
    SynthesisPreview,
    SynthesisProgress,
    SynthesisResult,
)
from whylight.progress import Progress

__all__ = [
    "AdminClient",
    "Answer",
    "AsyncClient",
    "Client",
    "Input",
    "InspectionProgress",
    "InspectionResult",
    "LayerInfo",
    "MethodCall",
    "MethodInfo",
    "MetricCall",
    "ModelInfo",
    "ModelStatus",
    "ModelWorker",
    "PluginInfo",
    "Progress",
    "Request",
    "Result",
    "ServerInfo",
    "SynthesisFailure",
    "SynthesisPreview",
    "SynthesisProgress",
    "SynthesisResult",
    "tls_credentials",
    "token_from_file",
]
