"""What a caller asks, as it is written in Python, made into messages, and answers read back; opens no connection."""

from __future__ import annotations

import numbers
from collections.abc import AsyncIterable, AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeAlias, TypeVar

from whylight import wire
from whylight.calls import MethodCall, MetricCall
from whylight.client.pictures import Image, read_picture
from whylight.decode import companion_array
from whylight.errors import InternalError, InvalidInput, WhylightError
from whylight.explanation import Explained
from whylight.outputs import Output
from whylight.priority import Priority, as_priority
from whylight.progress import Progress
from whylight.target import ClassIndex, Target, as_target
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.scalars import integer

Result: TypeAlias = Explained | WhylightError
"""What came of one image: its answer, or the exception that stands in its place."""

Answer: TypeAlias = "Result | list[Result]"
"""What came of one request: a result for one image, a list for a list, an exception for a request that failed."""

TargetLike: TypeAlias = "Target | int | str"
Targets: TypeAlias = "TargetLike | Sequence[TargetLike] | None"


@dataclass(frozen=True)
class Input:
    """An image with targets of its own, in place of the request's, and with what the model takes besides it.

    `companions` are arrays or lists of numbers, by name: whole ones travel as int64, others as float32.
    """

    image: Image
    target: Targets = None
    companions: Mapping[str, Any] = field(default_factory=dict)


Images: TypeAlias = "AsyncIterable[Image | Input] | Iterable[Image | Input]"
Methods: TypeAlias = "str | MethodCall | Sequence[str | MethodCall]"
Metrics: TypeAlias = "str | MetricCall | Sequence[str | MetricCall]"


@dataclass(frozen=True)
class Request:
    """One request, as `whylight.Client.explain` takes it. An empty `id` means the next number.

    In a stream, `on_progress` is called with how far each image has come while the request is worked on, by whoever
    takes the answers: between two of them, and never after this request's own. Of an image only the newest progress
    waits to be told. `running_maps` asks for the maps so far; `progress_interval` is the least time in seconds between
    two messages about an image, None what the server thinks best. `priority` is "bulk" for what nobody waits for.
    """

    images: Image | Input | Sequence[Image | Input]
    method: Methods = "grad-cam"
    model: str = ""
    target: Targets = None
    options: Mapping[str, Any] | None = None
    outputs: Sequence[Output] | None = None
    seed: int | None = None
    top_predictions: int = 5
    id: str = ""
    on_progress: Callable[[Progress], None] | None = None
    running_maps: bool = False
    progress_interval: float | None = None
    priority: Priority | str = Priority.INTERACTIVE

    @property
    def single(self) -> bool:
        """Whether there is one image, not a list of images."""
        return not isinstance(self.images, list | tuple)


def build_request(request: Request, max_bytes: int | None = None) -> pb.ExplainRequest:
    """Return a request as a message. Reads the files that it names.

    Raises:
        InvalidInput: with the path of the field that cannot be sent; or the message has more than `max_bytes`, which
            gRPC would find out as well, but as a RESOURCE_EXHAUSTED that looks as if a retry helped.
    """
    images: Any = [request.images] if request.single else request.images
    message = pb.ExplainRequest(
        model=request.model,
        methods=_methods(request),
        inputs=[_input(image, f"inputs[{index}]") for index, image in enumerate(images)],
        targets=[wire.target_to_proto(target) for target in targets_of(request.target, "targets")],
        outputs=[wire.output_to_proto(output) for output in request.outputs or ()],
        top_predictions=integer(
            request.top_predictions, 32, signed=False, reason="REQUEST_INVALID", field="top_predictions"
        ),
        priority=wire.priority_to_proto(as_priority(request.priority)),
    )
    return checked_size(message, max_bytes)


AnyRequest = TypeVar("AnyRequest", pb.ExplainRequest, pb.EvaluateRequest)


def checked_size(message: AnyRequest, max_bytes: int | None) -> AnyRequest:
    """Return a message that is small enough to be sent; see `build_request`."""
    if max_bytes is not None and (size := message.ByteSize()) > max_bytes:
        raise InvalidInput(
            f"the request has {size} bytes, more than the {max_bytes} that a message may have: send smaller pictures, "
            "files in place of pixels, or fewer at once",
            reason="REQUEST_TOO_LARGE",
            field="inputs",
        )
    return message


def read_response(request: Request, response: pb.ExplainResponse) -> Answer:
    """Return the answer to `request`: a result, or a list of results in the order of its images.

    Raises:
        InternalError: the response does not fit the request, or cannot be read (RESPONSE_INVALID).
    """
    expected = 1 if request.single else len(request.images)  # type: ignore[arg-type]  # a list or a tuple, as `single` says
    if len(response.results) != expected:
        raise InternalError(f"{len(response.results)} results for {expected} inputs", reason="RESPONSE_INVALID")
    results = [_of_version(wire.result_from_proto(result), response) for result in response.results]
    return results[0] if request.single else results


def _of_version(result: Result, response: pb.ExplainResponse) -> Result:
    if isinstance(result, Explained):
        return replace(result, model=response.model, model_digest=response.model_digest)
    return result


def single_requests(images: Any, settings: Request) -> Any:
    """Return a request with `settings` for each of the images, its index for an id; asynchronous as `images` is.

    Progress is told with the index of the image among all, not with the 0 that it has in its request.
    """
    if isinstance(images, AsyncIterable):
        return _single_requests_async(images, settings)
    return (_single_request(image, index, settings) for index, image in enumerate(images))


async def _single_requests_async(images: AsyncIterable[Image | Input], settings: Request) -> AsyncIterator[Request]:
    index = 0
    async for image in images:
        yield _single_request(image, index, settings)
        index += 1


def _single_request(image: Image | Input, index: int, settings: Request) -> Request:
    on_progress = settings.on_progress and partial(_tell, settings.on_progress, index)
    return replace(settings, images=image, id=str(index), on_progress=on_progress)


def _tell(on_progress: Callable[[Progress], None], index: int, progress: Progress) -> None:
    on_progress(replace(progress, input_index=index))


def raise_first(answer: Answer) -> None:
    """Raise the first exception that stands in an answer, if there is one."""
    for result in answer if isinstance(answer, list) else [answer]:
        if isinstance(result, WhylightError):
            raise result


def _methods(request: Request) -> Iterable[pb.MethodCall]:
    one = isinstance(request.method, str | MethodCall)
    several: Any = [request.method] if one else request.method
    for index, method in enumerate(several):
        call = method if isinstance(method, MethodCall) else MethodCall(method, request.options or {}, request.seed)
        if isinstance(method, MethodCall) and one and (request.options is not None or request.seed is not None):
            raise InvalidInput("give options and seed either in the MethodCall or beside it", field="methods[0]")
        place = f"methods[{index}]"
        message = pb.MethodCall(name=call.name, options=wire.dict_to_struct(call.options, f"{place}.options"))
        if call.seed is not None:
            message.seed = integer(call.seed, 64, signed=False, reason="REQUEST_INVALID", field=f"{place}.seed")
        yield message


def _input(image: Image | Input, place: str) -> pb.Input:
    if isinstance(image, Input):
        targets = targets_of(image.target, f"{place}.targets")
        companions = {name: companion_array(values) for name, values in image.companions.items()}
        return wire.input_to_proto(read_picture(image.image, place), targets, companions)
    return wire.input_to_proto(read_picture(image, place))


def targets_of(targets: Targets, place: str) -> list[Target]:
    """Return targets as a caller writes them as targets; errors name `place`."""
    if targets is None:
        return []
    several: Any = targets if isinstance(targets, list | tuple) else [targets]
    return [_target(target, f"{place}[{index}]") for index, target in enumerate(several)]


def _target(target: Any, place: str) -> Target:
    if isinstance(target, bool) or not isinstance(target, numbers.Integral | str | Target):
        raise InvalidInput(
            f"a {type(target).__name__} is no target: give an index, a label or a target",
            reason="TARGET_INVALID",
            field=place,
        )
    return ClassIndex(int(target)) if isinstance(target, numbers.Integral) else as_target(target)
