"""[batching] and [queue]: how items are put together, and how much work may wait; batches nothing."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import InOneFrame, Positive, Section


class BatchingSettings(Section):
    """When items are put together, and how many."""

    max_batch: Positive = Field(32, description="Inputs in one batch at most.")
    max_batch_cost: float = Field(
        256.0, gt=0, allow_inf_nan=False, description="Model evaluations in a batch at most; a dearer input goes alone."
    )
    max_batch_bytes: InOneFrame = Field(
        64 * 2**20, description="Bytes of inputs in one batch at most; a larger input goes alone."
    )
    max_delay_seconds: float = Field(
        0.0, ge=0, le=60, description="How long a free worker waits for a batch to fill. 0 sends what there is at once."
    )


class QueueSettings(Section):
    """How much work may wait; beyond it, calls are refused with RESOURCE_EXHAUSTED."""

    items: Positive = Field(4096, description="Inputs (times methods) that wait for a worker, of all callers, at most.")
    cost: float = Field(65536.0, gt=0, allow_inf_nan=False, description="Model evaluations that wait at most.")
    bytes: Positive = Field(512 * 2**20, description="Bytes of inputs that wait at most.")
    bulk_share: float = Field(
        0.1, gt=0, lt=1, description="Part of the work that calls of bulk priority get while interactive ones wait."
    )
    call_seconds: float = Field(
        3600.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a call may take at most, its waiting included, whatever its deadline.",
    )
