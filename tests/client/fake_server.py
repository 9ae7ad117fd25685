"""A server without models, for the client's tests: it speaks the protos and does as a test tells it."""

from __future__ import annotations

import threading
from concurrent import futures

import grpc
import numpy as np
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from whylight import wire
from whylight.artifact import Box, Boxes, Map, Picture
from whylight.errors import InvalidInput, NotFound, WhylightError
from whylight.explanation import Execution, Explained, Explanation, Prediction
from whylight.limits import Limits
from whylight.outputs import BoxesOutput, MaskOutput, PictureOutput
from whylight.rpc.errors import to_trailers
from whylight.target import ClassIndex, Rank
from whylight.v1 import catalog_pb2, catalog_pb2_grpc, explanation_pb2, explanation_pb2_grpc

SERVICE = "whylight.v1.ExplanationService"
PNG = bytes.fromhex(  # one black pixel
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c636060600000000400"
    "01f61738550000000049454e44ae426082"
)


class FakeServer(
    explanation_pb2_grpc.ExplanationServiceServicer,
    catalog_pb2_grpc.CatalogServiceServicer,
):
    """Answers of one input: its map is its tensor's first two dimensions, or its file's length as a 1 x 1 map."""

    def __init__(self, *, credentials=None, options=()):
        self.requests = []
        self.specs = []  # of those that asked for progress
        self.metadata = []
        self.deadlines = []
        self.failures = []  # raised by the next calls, one each; None lets a call pass
        self.trailers = ()  # sent with every failure
        self.hold = threading.Event()  # set: answers go out at once
        self.hold.set()
        self.received = threading.Semaphore(0)
        self.answered = threading.Semaphore(0)  # counts the answers of streams that have been handed to gRPC
        self.cancelled = threading.Event()
        self.reverse = False  # a stream is answered when it ends, last request first
        self.rename = ""  # id of all answers of streams
        self.reports = 0  # how often a stream tells of progress before an answer, to those who asked
        self.count = 5  # of methods
        self.health = health.HealthServicer()
        self.health.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        self.server = grpc.server(
            futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", 64 * 2**20), *options]
        )
        explanation_pb2_grpc.add_ExplanationServiceServicer_to_server(self, self.server)
        catalog_pb2_grpc.add_CatalogServiceServicer_to_server(self, self.server)
        health_pb2_grpc.add_HealthServicer_to_server(self.health, self.server)
        if credentials is None:
            self.port = self.server.add_insecure_port("127.0.0.1:0")
        else:
            self.port = self.server.add_secure_port("localhost:0", credentials)
        self.address = f"localhost:{self.port}"

    def __enter__(self):
        self.server.start()
        return self

    def __exit__(self, *_):
        self.hold.set()
        self.server.stop(None).wait()

    # -- ExplanationService ------------------------------------------------------------------------

    def Explain(self, request, context):
        self._note(request, context)
        context.add_callback(self.cancelled.set)
        self.received.release()
        self.hold.wait()
        self._maybe_fail(context)
        try:
            return self.answer(request)
        except WhylightError as error:
            self._abort(context, error)

    def StreamExplain(self, requests, context):
        context.add_callback(self.cancelled.set)
        self._note(None, context)
        waiting = list(requests) if self.reverse else requests
        for item in reversed(waiting) if self.reverse else waiting:
            self.requests.append(item.request)
            self.received.release()
            if item.HasField("progress"):
                self.specs.append(item.progress)
                for done in range(1, self.reports + 1):
                    yield explanation_pb2.StreamExplainResponse(id=item.id, progress=self.progress(item, done))
            self.hold.wait()
            self._maybe_fail(context)
            try:
                response = self.answer(item.request)
                yield explanation_pb2.StreamExplainResponse(id=self.rename or item.id, response=response)
                self.answered.release()
            except WhylightError as error:
                yield explanation_pb2.StreamExplainResponse(id=item.id, error=wire.error_to_proto(error))

    def progress(self, item, done):
        maps = [wire.array_to_tensor(np.full((1, 1), done, np.float32))] if item.progress.running_maps else []
        method = item.request.methods[0].name
        return explanation_pb2.ExplainProgress(method=method, done=done, total=self.reports, maps=maps)

    def answer(self, request):
        if request.model == "missing":
            raise NotFound("there is no model 'missing'", reason="MODEL_NOT_FOUND", field="model")
        outputs = wire.outputs_from_proto(request.outputs)
        targets = wire.targets_from_proto(request.targets) or (Rank(0),)
        results = [
            self.result(request, message, f"inputs[{index}]", targets, outputs)
            for index, message in enumerate(request.inputs)
        ]
        return explanation_pb2.ExplainResponse(results=results, model=request.model or "fake")

    def result(self, request, message, place, targets, outputs):
        try:
            data = wire.input_from_proto(message, place)
            if isinstance(data, bytes) and data == b"bad":
                raise InvalidInput("no picture", reason="IMAGE_UNREADABLE", field=f"{place}.image")
        except WhylightError as error:
            return wire.result_to_proto(error)
        array = np.full((1, 1), len(data), np.float32) if isinstance(data, bytes) else np.float32(data[:2, :2, 0])
        own = wire.targets_from_proto(message.targets) or targets
        return wire.result_to_proto(
            Explained(
                tuple(Prediction(k, f"class {k}", 9.0 - k, 0.5**k) for k in range(request.top_predictions)),
                tuple(
                    Explanation(
                        method.name,
                        "1",
                        wire.struct_to_dict(method.options),
                        ClassIndex(7) if isinstance(target, Rank) else target,
                        "class 7",
                        1.5,
                        0.0,
                        1.0,
                        tuple(self.artifact(output, array) for output in outputs),
                        {"residual": 0.25},
                        method.seed if method.HasField("seed") else None,
                        Execution(len(request.inputs), 0.001, 0.002, 0.003, 0.004, "cpu"),
                    )
                    for method in request.methods
                    for target in own
                ),
                (20, 10),
                (4, 4),
            )
        )

    @staticmethod
    def artifact(output, array):
        if isinstance(output, PictureOutput):
            return Picture(output.name, PNG, output.format.media_type, 1, 1)
        if isinstance(output, BoxesOutput):
            return Boxes(output.name, (Box(1.0, 2.0, 3.0, 4.0, 0.5),), output.canvas)
        if isinstance(output, MaskOutput):
            mask = np.zeros((10, 20), np.uint8)
            mask[2:7, 4:14] = 1
            return Map(output.name, mask)
        return Map(output.name, array)

    # -- CatalogService ----------------------------------------------------------------------------

    def ListMethods(self, request, context):
        self._note(request, context)
        self._maybe_fail(context)
        first = int(request.page_token or 0)
        page = [self.method(k) for k in range(first, min(first + 2, self.count))]
        token = str(first + 2) if first + 2 < self.count else ""
        return catalog_pb2.ListMethodsResponse(methods=page, next_page_token=token)

    def GetMethod(self, request, context):
        self._note(request, context)
        if not request.name.startswith("method-"):
            self._abort(context, NotFound(f"there is no {request.name}", reason="METHOD_NOT_FOUND", field="name"))
        method = self.method(int(request.name.removeprefix("method-")))
        method.options_schema.update({"properties": {"steps": {"type": "integer", "default": 50}}})
        return catalog_pb2.GetMethodResponse(method=method)

    @staticmethod
    def method(k):
        return catalog_pb2.Method(
            name=f"method-{k}",
            summary=f"Method {k}.",
            version="1",
            kind=catalog_pb2.METHOD_KIND_ATTRIBUTION,
            needs=["gradients"],
            reference="A paper",
            plugin="fake",
        )

    def ListModels(self, request, context):
        return catalog_pb2.ListModelsResponse(models=[self.model()])

    def GetModel(self, request, context):
        self._note(request, context)
        model = self.model()
        model.labels.extend(["cat", "dog"])
        model.layers.add(name="conv", type="Conv2d", output_shape=[8, 4, 4], parameter_count=10)
        return catalog_pb2.GetModelResponse(model=model)

    @staticmethod
    def model():
        return catalog_pb2.Model(
            name="fake",
            source="python:fake",
            digest="sha256:00",
            default=True,
            input_channels=3,
            input_size=explanation_pb2.Size(width=4, height=5),
            class_count=2,
            last_spatial_layer="conv",
            capabilities=["gradients"],
            precision="float32",
            device="cpu",
            batch_invariant=True,
            parameter_count=10,
        )

    def ListPlugins(self, request, context):
        return catalog_pb2.ListPluginsResponse(
            plugins=[
                catalog_pb2.Plugin(
                    name="cam",
                    distribution="whylight",
                    version="1",
                    state=catalog_pb2.PLUGIN_STATE_ACTIVE,
                    methods=["grad-cam"],
                ),
                catalog_pb2.Plugin(name="bad", state=catalog_pb2.PLUGIN_STATE_FAILED, error="no such module"),
                catalog_pb2.Plugin(name="new", state=99),
            ]
        )

    def GetServerInfo(self, request, context):
        limits = Limits()
        return catalog_pb2.GetServerInfoResponse(
            version="9.9",
            library_versions={"torch": "2.15"},
            native_operators="no (fake)",
            devices=["cpu"],
            start_time=Timestamp(seconds=1_700_000_000),
            limits=catalog_pb2.Limits(**vars(limits)),
        )

    # -- what tests ask for ------------------------------------------------------------------------

    def serving(self, yes):
        status = health_pb2.HealthCheckResponse
        self.health.set(SERVICE, status.SERVING if yes else status.NOT_SERVING)

    def _note(self, request, context):
        if request is not None:
            self.requests.append(request)
        self.metadata.append(dict(context.invocation_metadata()))
        self.deadlines.append(context.time_remaining())

    def _maybe_fail(self, context):
        failure = self.failures.pop(0) if self.failures else None
        if isinstance(failure, WhylightError):
            self._abort(context, failure)
        if failure is not None:
            context.set_trailing_metadata(self.trailers)
            context.abort(*failure)

    def _abort(self, context, error):
        code, message, trailers = to_trailers(error)
        context.set_trailing_metadata((*trailers, *self.trailers))
        context.abort(code, message)
