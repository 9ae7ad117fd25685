"""What came of one item, as the frame that tells it; whatever is wrong with it becomes an error in its place."""

from __future__ import annotations

import dataclasses
import logging

from whylight.engine.frames import FRAME_BYTES
from whylight.errors import InternalError, InvalidInput, WhylightError
from whylight.explanation import Explained
from whylight.wire import result_to_proto
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)


def result_frame(
    item_id: int, outcome: Explained | WhylightError, queue_time: float, limit: int = FRAME_BYTES
) -> worker_pb2.WorkerFrame:
    """Return the frame of one item's result; `queue_time` in seconds is what the item waited in this process."""
    try:
        frame = _frame(item_id, _timed(outcome, queue_time))
    except Exception as error:
        return _frame(item_id, _internal(error, "writing a result failed"))
    size = frame.ByteSize()
    if size <= limit:
        return frame
    too_large = InvalidInput(
        f"the answer for this input has {size} bytes, more than {limit}; ask for fewer targets or smaller outputs",
        reason="OUTPUT_TOO_LARGE",
        field="outputs",
    )
    return _frame(item_id, too_large)


def typed_error(error: BaseException, doing: str) -> WhylightError:
    """Return what the caller is told: an error that was meant for it, or else nothing, with everything in the log."""
    if isinstance(error, WhylightError):
        return error
    return _internal(error, doing)


def _internal(error: BaseException, doing: str) -> InternalError:
    _log.error(doing, exc_info=error)
    return InternalError("the server failed; its log says why")


def _frame(item_id: int, outcome: Explained | WhylightError) -> worker_pb2.WorkerFrame:
    return worker_pb2.WorkerFrame(result=worker_pb2.ItemResult(item_id=item_id, result=result_to_proto(outcome)))


def _timed(outcome: Explained | WhylightError, queue_time: float) -> Explained | WhylightError:
    if isinstance(outcome, WhylightError):
        return outcome
    explanations = tuple(
        dataclasses.replace(explanation, execution=dataclasses.replace(explanation.execution, queue_time=queue_time))
        for explanation in outcome.explanations
    )
    return dataclasses.replace(outcome, explanations=explanations)
