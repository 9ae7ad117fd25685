"""[open_inference]: the Open Inference Protocol, as another way into the same server; serves nothing."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import Section


class OpenInferenceSettings(Section):
    """The Open Inference Protocol, version 2: what clients of Triton and KServe speak."""

    enabled: bool = Field(
        True,
        description="Whether to answer inference.GRPCInferenceService too, on the same port, under the same limits, "
        "tokens and queues.",
    )
