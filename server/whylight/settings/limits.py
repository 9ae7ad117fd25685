"""[limits]: what one request may hold; checks no request."""

from __future__ import annotations

from pydantic import Field

from whylight.limits import Limits
from whylight.settings.section import InOneFrame, Positive, Section


class LimitSettings(Section):
    """What one request may hold. Checked before memory is set aside."""

    message_bytes: InOneFrame = Field(Limits.message_bytes, description="Bytes in one request.")
    inputs: Positive = Field(Limits.inputs, description="Inputs in one request.")
    image_pixels: Positive = Field(Limits.image_pixels, description="Pixels of one picture, as its header gives them.")
    tensor_elements: Positive = Field(Limits.tensor_elements, description="Elements of one tensor.")
    targets: Positive = Field(Limits.targets, description="Targets of one input.")
    outputs: Positive = Field(Limits.outputs, description="Outputs of one request.")
    options_bytes: Positive = Field(Limits.options_bytes, description="Bytes in the options of one method.")
    methods: Positive = Field(Limits.methods, description="Methods in one request.")
    synthesis_pixels: Positive = Field(Limits.synthesis_pixels, description="Pixels of one picture that is made.")

    def limits(self) -> Limits:
        """Return the limits as the rest of the server knows them."""
        return Limits(**self.model_dump())
