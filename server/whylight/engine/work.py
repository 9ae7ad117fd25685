"""What the engine is asked to do, as its callers say it; knows neither how it is done nor how the question came."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

from whylight.errors import InvalidInput, WhylightError
from whylight.priority import Priority
from whylight.v1 import catalog_pb2
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2


class AnswerRoom:
    """How many bytes the results of one call may have together."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._left = limit

    @property
    def full(self) -> bool:
        """Whether there was none left for a result."""
        return self._left < 0

    def take(self, result: v1.InputResult) -> bool:
        """Return whether there is room for one more result. Once there was none, there is none for any."""
        if not self.full:
            self._left -= result.ByteSize()
        return not self.full

    def error(self) -> InvalidInput:
        """Return why the call fails."""
        return InvalidInput(
            f"the answer has more than the {self._limit} bytes that are allowed; "
            "ask for fewer inputs at once, or smaller outputs",
            reason="RESPONSE_TOO_LARGE",
        )


@dataclass(frozen=True)
class Watch:
    """Someone who wants to know how far work is.

    `spec` goes to the worker with every input. `tell` is called from the event loop with the index of an input and what
    the worker says of it, never after that input's end; it must not block. What is told is for caller and worker to
    understand: the engine only carries it. `show` is given the previews of a synthesis in the same way, and `end` what
    came of an input as soon as it has ended, whatever the others of its call do.
    """

    spec: v1.ProgressSpec
    tell: Callable[[int, worker_pb2.ItemProgress], None]
    show: Callable[[int, worker_pb2.ItemPreview], None] | None = None
    end: Callable[[int, v1.InputResult | WhylightError], None] | None = None


@dataclass(frozen=True)
class Work:
    """The methods of one call, applied to its inputs.

    `spec` is what all inputs have in common: model (never empty), methods (their seeds are not looked at), outputs
    (never none), top predictions. Each of `inputs` holds its own targets, none meaning the top prediction. `seeds` has
    one for each method, the same for all inputs, so that an input gets the same numbers alone and beside others; where
    it is None, or there are none, the engine draws one for each input if the method is stochastic. `deadline` is
    absolute, on the clock of the running loop (``loop.time()``). The call fails as soon as its results outgrow `room`:
    what does not fit is neither kept nor made. `watch` is told of progress. Each input of long work is given all of
    `pictures`, and shows what there is of it at every `preview_interval`-th step. `trace` is for whoever measures, such
    as the context of a span: the engine gives it back in the reports of what the call was part of. `caller` is whose
    turns are used up by it, whatever tells one client from another; calls that say None share turns.
    `request_id` names the call in the worker's log.
    """

    spec: worker_pb2.PlanSpec
    inputs: Sequence[v1.Input]
    seeds: Sequence[int | None] = ()
    deadline: float | None = None
    room: AnswerRoom | None = None
    watch: Watch | None = None
    pictures: Sequence[v1.Input] = ()
    preview_interval: int = 0
    trace: Hashable = None
    request_id: str = ""
    caller: Hashable = None
    priority: Priority = Priority.INTERACTIVE


def signature(item: v1.Input) -> str:
    """Return what must be equal for two inputs to share a batch, besides the plan.

    Encoded pictures and uint8 arrays go through the model's transform and come out in one shape; arrays of floats are
    the model's input as they are. Companions are never padded.
    """
    kind = f"{item.tensor.dtype}:{_shape(item.tensor)}" if _is_model_input(item) else "image"
    return ";".join([kind, *(f"{name}={_shape(item.companions[name])}" for name in sorted(item.companions))])


def evaluations(item: v1.Input, model: catalog_pb2.Model | None) -> float:
    """Return how many times the work of the model's own input size one evaluation of this input is, at least 1.

    An array of floats may be of any size; one of 2300 x 2300 keeps a device busy as long as a hundred of 224 x 224.
    """
    if model is None or not _is_model_input(item):
        return 1.0
    usual = max(model.input_channels, 1) * model.input_size.width * model.input_size.height
    return max(1.0, math.prod(item.tensor.shape) / usual) if usual else 1.0


def references(item: v1.Input) -> int:
    """Return how many evaluations the pictures need that targets refer to: one each, whatever the method."""
    return sum(target.similarity.WhichOneof("reference") in ("image", "tensor") for target in item.targets)


def _shape(tensor: v1.Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _is_model_input(item: v1.Input) -> bool:
    return item.WhichOneof("data") == "tensor" and item.tensor.dtype != v1.DATA_TYPE_UINT8
