"""What may stand in the place of removed pixels; knows the names, not what they are."""

from __future__ import annotations

from typing import Literal, TypeAlias

import whylight

Fill: TypeAlias = Literal["zero", "black", "mean", "blur"]

DESCRIPTION = f"What removed pixels become: {whylight.describe_baselines('zero', 'black', 'mean', 'blur')}."
