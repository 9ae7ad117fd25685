"""Valid requests of every call that a server answers, from which fuzzing begins; knows not how they are spoiled."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from PIL import Image

from whylight.open_inference import messages as oip
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1

EXPLANATION = "/whylight.v1.ExplanationService/"
CATALOG = "/whylight.v1.CatalogService/"
INFERENCE = "/inference.GRPCInferenceService/"

METHODS = (
    *("grad-cam", "cam", "hires-cam", "layer-cam", "eigen-cam", "score-cam", "saliency", "input-x-gradient"),
    *("integrated-gradients", "smoothgrad", "guided-backprop", "lrp", "deep-taylor", "occlusion", "rise", "lime"),
)


@dataclass(frozen=True)
class Seed:
    """A request that is answered well. `weight` says how often it is taken; `streams` whether the call takes many."""

    path: str
    message: Message
    weight: float = 1.0
    streams: bool = False
    answers: bool = False
    """Whether the answer is a stream."""


def pixels(seed: int = 0, height: int = 24, width: int = 32) -> np.ndarray:
    """Return a picture of noise."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(kind: str, **settings: object) -> bytes:
    """Return a picture in a file of a kind."""
    file = io.BytesIO()
    Image.fromarray(pixels()).save(file, kind, **settings)
    return file.getvalue()


def bombs() -> list[bytes]:
    """Return small files that would be large pictures, or large texts."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    def png(width: int, height: int, *extra: bytes) -> bytes:
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        return (
            b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
        )

    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(8 * 2**20), 9))
    profile = chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(8 * 2**20), 9))
    return [png(2**31 - 1, 2**31 - 1), png(60000, 60000), png(32, 24, text), png(32, 24, profile)]


def pictures() -> list[bytes]:
    """Return files that servers take, and files that they must not."""
    frames = [Image.fromarray(pixels(seed)) for seed in range(5)]
    moving = []
    for kind in ("WEBP", "PNG", "GIF"):
        file = io.BytesIO()
        frames[0].save(file, kind, save_all=True, append_images=frames[1:])
        moving.append(file.getvalue())
    return [encoded("PNG"), encoded("JPEG"), encoded("WEBP"), *moving, encoded("TIFF"), encoded("BMP"), *bombs()]


def tensor(array: np.ndarray, dtype: v1.DataType) -> v1.Tensor:
    """Return an array as a message."""
    return v1.Tensor(dtype=dtype, shape=array.shape, data=array.tobytes())


def inputs() -> list[v1.Input]:
    """Return inputs of every kind."""
    floats = np.random.default_rng(1).normal(size=(3, 32, 32)).astype("<f4")
    return [
        v1.Input(image=encoded("PNG")),
        v1.Input(image=encoded("JPEG")),
        v1.Input(tensor=tensor(pixels(), v1.DATA_TYPE_UINT8)),
        v1.Input(tensor=tensor(floats, v1.DATA_TYPE_FLOAT32)),
        v1.Input(tensor=tensor(floats.astype("<f2"), v1.DATA_TYPE_FLOAT16)),
    ]


def targets() -> list[v1.Target]:
    """Return targets of every kind; some are none of a classifier's."""
    mask = tensor(np.eye(32, dtype=np.uint8), v1.DATA_TYPE_UINT8)
    embedding = tensor(np.ones(8, "<f4"), v1.DATA_TYPE_FLOAT32)
    return [
        v1.Target(class_index=2),
        v1.Target(class_label="2"),
        v1.Target(rank=1),
        v1.Target(output=v1.OutputIndex(indices=[3])),
        v1.Target(neuron=v1.Neuron(layer="features", channel=1, position=[0, 0])),
        v1.Target(latent=1),
        v1.Target(region=v1.Region(class_index=1, left=0.1, top=0.1, right=0.9, bottom=0.9)),
        v1.Target(region=v1.Region(class_index=1, mask=mask)),
        v1.Target(contrast=v1.Contrast(positive=v1.Target(class_index=1), negative=v1.Target(rank=0))),
        v1.Target(detection=v1.Detection(class_index=1, left=0, top=0, right=0.5, bottom=0.5)),
        v1.Target(similarity=v1.Similarity(embedding=embedding, layer="features")),
        v1.Target(similarity=v1.Similarity(image=encoded("PNG"))),
    ]


def outputs() -> list[v1.OutputSpec]:
    """Return outputs of every kind."""
    return [
        v1.OutputSpec(name="m", map=v1.MapOutput(canvas=v1.CANVAS_ORIGINAL, normalised=True)),
        v1.OutputSpec(name="p", picture=v1.PictureOutput(opacity=0.5, colour_map="viridis", quality=70)),
        v1.OutputSpec(name="w", picture=v1.PictureOutput(format=v1.PICTURE_FORMAT_WEBP, style=v1.PICTURE_STYLE_MAP)),
        v1.OutputSpec(name="b", boxes=v1.BoxesOutput(threshold=0.4, limit=3)),
        v1.OutputSpec(name="k", mask=v1.MaskOutput(threshold=0.4)),
    ]


def method(name: str, **options: object) -> v1.MethodCall:
    """Return a method with its options."""
    call = v1.MethodCall(name=name)
    call.options.update(options)
    return call


CHEAP: dict[str, dict[str, object]] = {
    "integrated-gradients": {"steps": 4},
    "smoothgrad": {"samples": 2},
    "rise": {"masks": 8},
    "lime": {"samples": 16},
    "occlusion": {"window": 16, "stride": 16},
}


def explains() -> Iterator[v1.ExplainRequest]:
    """Yield requests with every kind of method, input, target and output."""
    for name in METHODS:
        yield v1.ExplainRequest(methods=[method(name, **CHEAP.get(name, {}))], inputs=inputs()[:1])
    for item in inputs():
        yield v1.ExplainRequest(model="tiny", methods=[method("grad-cam", layer="features")], inputs=[item])
    for target in targets():
        yield v1.ExplainRequest(methods=[method("saliency")], inputs=[v1.Input(image=encoded("PNG"), targets=[target])])
    for picture in pictures():
        yield v1.ExplainRequest(methods=[method("grad-cam")], inputs=[v1.Input(image=picture)])
    yield v1.ExplainRequest(
        methods=[method("grad-cam"), method("saliency")],
        inputs=inputs()[:3],
        targets=targets()[:3],
        outputs=outputs(),
        top_predictions=3,
        priority=v1.PRIORITY_BULK,
    )


def seeds() -> list[Seed]:
    """Return the seeds of all calls."""
    found = [Seed(EXPLANATION + "Explain", request) for request in explains()]
    found += [
        Seed(
            EXPLANATION + "StreamExplain",
            v1.StreamExplainRequest(id=str(index), request=request, progress=v1.ProgressSpec(running_maps=True)),
            weight=0.5,
            streams=True,
            answers=True,
        )
        for index, request in enumerate(explains())
    ]
    evaluate = v1.EvaluateRequest(
        methods=[method("grad-cam"), method("saliency")],
        metrics=[v1.MetricCall(name=name) for name in ("deletion", "average-drop")],
        inputs=inputs()[:1],
    )
    found.append(Seed(EXPLANATION + "Evaluate", evaluate, weight=2))
    small = v1.Size(width=32, height=32)
    channel = v1.Target(neuron=v1.Neuron(layer="features.3", channel=1))
    syntheses = [
        v1.SynthesizeRequest(method=method("deepdream", steps=2, octaves=1), inputs=inputs()[:1], preview_interval=1),
        v1.SynthesizeRequest(method=method("activation-maximization", steps=2), targets=[channel], size=small),
    ]
    found += [Seed(EXPLANATION + "Synthesize", request, answers=True) for request in syntheses]
    inspections = [
        v1.InspectRequest(method=method("activations", layer="features.3"), inputs=inputs()[:1]),
        v1.InspectRequest(method=method("predictions"), inputs=inputs()[:1]),
    ]
    found += [Seed(EXPLANATION + "Inspect", request, answers=True) for request in inspections]
    found += [
        Seed(CATALOG + "ListMethods", catalog_pb2.ListMethodsRequest(page_size=3)),
        Seed(CATALOG + "GetMethod", catalog_pb2.GetMethodRequest(name="grad-cam")),
        Seed(CATALOG + "ListMetrics", catalog_pb2.ListMetricsRequest(page_size=3)),
        Seed(CATALOG + "GetMetric", catalog_pb2.GetMetricRequest(name="deletion")),
        Seed(CATALOG + "ListModels", catalog_pb2.ListModelsRequest(page_size=3)),
        Seed(CATALOG + "GetModel", catalog_pb2.GetModelRequest(name="tiny")),
        Seed(CATALOG + "ListPlugins", catalog_pb2.ListPluginsRequest(page_size=3)),
        Seed(CATALOG + "GetServerInfo", catalog_pb2.GetServerInfoRequest()),
        Seed("/grpc.health.v1.Health/Check", health_pb2.HealthCheckRequest(service="liveness")),
    ]
    infer = oip.ModelInferRequest(model_name="tiny.grad-cam", id="1")
    infer.inputs.add(name="IMAGE", datatype="UINT8", shape=(1, 24, 32, 3))
    infer.raw_input_contents.append(pixels().tobytes())
    infer.parameters["target"].int64_param = 1
    found.append(Seed(INFERENCE + "ModelInfer", infer, weight=6))
    named = (("ModelMetadata", oip.ModelMetadataRequest), ("ModelReady", oip.ModelReadyRequest))
    found += [Seed(INFERENCE + name, kind(name="tiny.grad-cam")) for name, kind in named]
    found.append(Seed(INFERENCE + "ServerMetadata", oip.ServerMetadataRequest()))
    return found
