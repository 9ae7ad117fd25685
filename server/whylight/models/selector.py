"""Choosing one tensor out of what a module returns: tuples, dicts, dataclasses; knows nothing else of the module."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from whylight.errors import InvalidInput


def select(output: Any, selector: str | None) -> Tensor:
    """Return the tensor of `output` that `selector` names: keys, attributes or indices, joined by dots.

    Without a selector the output must be a tensor, or hold one only.

    Raises:
        InvalidInput: there is no such part, or it is no tensor; the message lists what there is.
    """
    if selector is None:
        if isinstance(output, Tensor):
            return output
        parts = _parts(output)
        if len(parts) == 1 and isinstance(next(iter(parts.values())), Tensor):
            tensor: Tensor = next(iter(parts.values()))
            return tensor
        raise InvalidInput(
            f"the model returns {type(output).__name__} with the parts {', '.join(parts)}; "
            "say in 'output' which is explained",
            field="output",
        )
    chosen = output
    for key in selector.split("."):
        parts = _parts(chosen)
        if key not in parts:
            raise InvalidInput(
                f"selector {selector!r}: the model's {type(chosen).__name__} has no part {key!r}; "
                f"it has {', '.join(parts) or 'none'}",
                field="output",
            )
        chosen = parts[key]
    if not isinstance(chosen, Tensor):
        raise InvalidInput(f"selector {selector!r} names {type(chosen).__name__}, not a tensor", field="output")
    return chosen


def _parts(output: Any) -> dict[str, Any]:
    if isinstance(output, Tensor):
        return {}
    if isinstance(output, Mapping):
        return {str(key): value for key, value in output.items()}
    if dataclasses.is_dataclass(output):
        return {field.name: getattr(output, field.name) for field in dataclasses.fields(output)}
    if isinstance(output, Sequence) and not isinstance(output, str):
        names = getattr(output, "_fields", ())
        indexed = {str(index): value for index, value in enumerate(output)}
        return {**dict(zip(names, output, strict=False)), **indexed} if names else indexed
    return {key: value for key, value in getattr(output, "__dict__", {}).items() if not key.startswith("_")}
