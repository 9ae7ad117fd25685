"""The messages of the Open Inference Protocol in a descriptor pool of their own; knows no meaning of them.

Every implementation of the protocol has the package ``inference``, and the default pool of a process takes each name
once: whoever comes second cannot be imported. So ours never goes there, and a process may have us and any client.
"""

from __future__ import annotations

from importlib.resources import files
from typing import TYPE_CHECKING

from google.protobuf import descriptor_pb2, message_factory
from google.protobuf.descriptor_pool import DescriptorPool

__all__ = [
    "POOL",
    "SERVICE",
    "InferParameter",
    "InferTensorContents",
    "ModelConfig",
    "ModelConfigRequest",
    "ModelConfigResponse",
    "ModelInferRequest",
    "ModelInferResponse",
    "ModelInput",
    "ModelMetadataRequest",
    "ModelMetadataResponse",
    "ModelOutput",
    "ModelReadyRequest",
    "ModelReadyResponse",
    "ModelStatistics",
    "ModelStatisticsRequest",
    "ModelStatisticsResponse",
    "ModelStreamInferResponse",
    "RepositoryIndexRequest",
    "RepositoryIndexResponse",
    "ServerLiveRequest",
    "ServerLiveResponse",
    "ServerMetadataRequest",
    "ServerMetadataResponse",
    "ServerReadyRequest",
    "ServerReadyResponse",
    "StatisticDuration",
]

SERVICE = "inference.GRPCInferenceService"

POOL = DescriptorPool()
"""Has the protocol, and nothing else."""

_descriptors = files("whylight.open_inference").joinpath("inference.binpb").read_bytes()
for _file in descriptor_pb2.FileDescriptorSet.FromString(_descriptors).file:
    POOL.AddSerializedFile(_file.SerializeToString())


if TYPE_CHECKING:
    from whylight.open_inference.inference_pb2 import (
        InferParameter,
        InferTensorContents,
        ModelConfig,
        ModelConfigRequest,
        ModelConfigResponse,
        ModelInferRequest,
        ModelInferResponse,
        ModelInput,
        ModelMetadataRequest,
        ModelMetadataResponse,
        ModelOutput,
        ModelReadyRequest,
        ModelReadyResponse,
        ModelStatistics,
        ModelStatisticsRequest,
        ModelStatisticsResponse,
        ModelStreamInferResponse,
        RepositoryIndexRequest,
        RepositoryIndexResponse,
        ServerLiveRequest,
        ServerLiveResponse,
        ServerMetadataRequest,
        ServerMetadataResponse,
        ServerReadyRequest,
        ServerReadyResponse,
        StatisticDuration,
    )
else:
    for _name in POOL.FindFileByName("whylight/open_inference/inference.proto").message_types_by_name:
        globals()[_name] = message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{_name}"))
