"""What all sections of the settings are made of; knows none of them."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from whylight.engine.frames import FRAME_BYTES

Positive = Annotated[int, Field(gt=0)]
InOneFrame = Annotated[int, Field(gt=0, le=FRAME_BYTES // 2)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class Section(BaseModel):
    """A group of settings. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)
