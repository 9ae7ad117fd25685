"""[long_work]: how much of syntheses and inspections is taken, and how long one may take; does none."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import Section


class LongWorkSettings(Section):
    """Syntheses and inspections, which are done a step at a time between batches."""

    call_cost: float = Field(
        2.0e6,
        gt=0,
        allow_inf_nan=False,
        description="Model evaluations of one call at most, all its targets together; steps times the size of the "
        "pictures, about. A dearer call is refused with REQUEST_TOO_COSTLY.",
    )
    queue_cost: float = Field(
        8.0e6, gt=0, allow_inf_nan=False, description="Model evaluations that wait at most, of all callers."
    )
    call_seconds: float = Field(
        3600.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a call may take at most, its waiting included, whatever its deadline.",
    )
