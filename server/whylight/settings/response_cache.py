"""[response_cache]: whether answers are kept for equal questions; keeps none."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import Section


class ResponseCacheSettings(Section):
    """Answers kept for equal questions: same model and weights, methods, options, seeds, targets, input and outputs."""

    bytes: int = Field(
        0, ge=0, description="Bytes of answers to keep at most, the last asked for. 0 keeps none, which is the default."
    )
