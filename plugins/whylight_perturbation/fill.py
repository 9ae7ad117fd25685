"""What may stand in the place of hidden pixels; knows the names, not what they are."""

from __future__ import annotations

from typing import Literal, TypeAlias

import whylight

Fill: TypeAlias = Literal["mean", "grey", "black", "blur", "zero"]

FILL_DESCRIPTION = (
    f"What hidden pixels become: {whylight.describe_baselines('mean', 'grey', 'black', 'blur', 'zero')}; captum's "
    "default is 'zero'."
)
