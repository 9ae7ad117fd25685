"""Running a model for methods: capture, gradients, chunks, cancelling; knows no method and no request.

The names load on first use, so that whoever needs only the cancel token does not pay for torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whylight.subject.altered import Altered
    from whylight.subject.attention import Attended
    from whylight.subject.backward_rule import BackwardRule, FunctionCall
    from whylight.subject.cancel import CancelToken
    from whylight.subject.gap_head import GapHead
    from whylight.subject.relu_rules import DeconvnetRelu, GuidedRelu
    from whylight.subject.subject import Subject

_HOMES = {
    "Altered": "altered",
    "Attended": "attention",
    "BackwardRule": "backward_rule",
    "CancelToken": "cancel",
    "DeconvnetRelu": "relu_rules",
    "FunctionCall": "backward_rule",
    "GapHead": "gap_head",
    "GuidedRelu": "relu_rules",
    "Subject": "subject",
}

__all__ = [
    "Altered",
    "Attended",
    "BackwardRule",
    "CancelToken",
    "DeconvnetRelu",
    "FunctionCall",
    "GapHead",
    "GuidedRelu",
    "Subject",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        value = getattr(importlib.import_module(f"whylight.subject.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'whylight.subject' has no attribute {name!r}")
