"""A validated synthesis or inspection, up to its targets and pictures; knows neither batches nor slices."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from whylight.data_set import NO_DATA_SETS, DataSets
from whylight.errors import InvalidInput, Unsupported, WhylightError
from whylight.explainer.plan import method_failed, missing_needs, not_found, other_question
from whylight.method import Inspection, Synthesis, TargetUse
from whylight.options import PlainOptions, parse_options
from whylight.outputs import MapOutput, Output, PictureOutput, check_outputs

if TYPE_CHECKING:
    from whylight.limits import Limits
    from whylight.models import Model
    from whylight.plugins import OfferedMethod


@dataclass(frozen=True)
class LongPlan:
    """Long work: one method on one model. Pictures of one plan may be made as one batch.

    `size` (H, W) is that of the pictures; `outputs` are never none for a synthesis, and none for an inspection; `cost`
    counts evaluations of the model at its own size, for one picture or one inspection. `others` are all models that
    are served, for methods that need a second one; `data_sets` are the operator's.
    """

    model: Model
    offered: OfferedMethod
    method: Synthesis | Inspection
    options: PlainOptions
    outputs: tuple[Output, ...]
    size: tuple[int, int]
    targeted: bool
    top_predictions: int
    cost: float
    others: Mapping[str, Model] = field(default_factory=dict, repr=False, compare=False)
    data_sets: DataSets = field(default=NO_DATA_SETS, repr=False, compare=False)

    @property
    def stochastic(self) -> bool:
        """Whether the method draws random numbers, so that each picture needs a seed."""
        return self.method.stochastic


@dataclass(frozen=True)
class Wanted:
    """What a request for a synthesis says besides its method: None for the size means that of the model's input."""

    outputs: tuple[Output, ...] = ()
    size: tuple[int, int] | None = None
    pictures: int = 0
    targeted: bool = False
    top_predictions: int = 5


def plan_synthesis(
    models: Mapping[str, Model],
    methods: Mapping[str, OfferedMethod],
    model_name: str,
    method_name: str,
    options: Mapping[str, Any],
    wanted: Wanted,
    limits: Limits,
) -> LongPlan:
    """Check everything that can be known before a picture is seen. Field paths are those of a SynthesizeRequest.

    Raises:
        NotFound: MODEL_NOT_FOUND, METHOD_NOT_FOUND.
        InvalidInput: OPTION_INVALID, OUTPUT_INVALID; no target where the method makes pictures of targets, a target
            where it takes none, or not the pictures that it takes (REQUEST_INVALID); a size, or artifacts of one
            picture together, beyond the limits (OUTPUT_TOO_LARGE).
        Unsupported: METHOD_UNSUPPORTED: the model lacks something or takes companions, or the method is no synthesis.
        MethodFailed: the plugin failed to say what the method costs.
    """
    model, offered = _found(models, methods, model_name, method_name)
    method = offered.method
    if not isinstance(method, Synthesis):
        raise other_question(offered, "a synthesis", "method.name")
    missing_needs(model, method, "method.name")
    if model.companions:
        raise Unsupported(
            f"the model {model_name!r} takes {', '.join(model.companions)} besides pictures, and a synthesis has none",
            field="model",
        )
    parsed, cost = _priced(offered, options)
    _check_targets(offered, parsed, given=wanted.targeted)
    check_count(method, wanted.pictures)
    size = wanted.size or model.input_size
    if not all(side >= 1 for side in size) or size[0] * size[1] > limits.synthesis_pixels:
        raise InvalidInput(
            f"a picture has from 1 to {limits.synthesis_pixels} pixels, not {size[1]} x {size[0]}",
            reason="OUTPUT_TOO_LARGE",
            field="size",
        )
    outputs = check_outputs(wanted.outputs or (PictureOutput(),))
    for index, output in enumerate(outputs):
        _check_output(output, f"outputs[{index}]", model)
    if (needed := _artifact_bytes(outputs, size, model)) > limits.message_bytes:
        raise InvalidInput(
            f"the artifacts of one picture take {needed} bytes, more than the {limits.message_bytes} of one answer; "
            "ask for fewer, or for a smaller picture",
            reason="OUTPUT_TOO_LARGE",
            field="outputs",
        )
    cost *= size[0] * size[1] / (model.input_size[0] * model.input_size[1])
    return LongPlan(
        model, offered, method, parsed, outputs, size, wanted.targeted, wanted.top_predictions, cost, models
    )


def plan_inspection(
    models: Mapping[str, Model],
    methods: Mapping[str, OfferedMethod],
    model_name: str,
    method_name: str,
    options: Mapping[str, Any],
    data_sets: DataSets = NO_DATA_SETS,
) -> LongPlan:
    """Check everything that can be known before an input is seen. Field paths are those of an InspectRequest.

    Raises:
        WhylightError: as `plan_synthesis`.
    """
    model, offered = _found(models, methods, model_name, method_name)
    method = offered.method
    if not isinstance(method, Inspection):
        raise other_question(offered, "an inspection", "method.name")
    missing_needs(model, method, "method.name")
    parsed, cost = _priced(offered, options)
    return LongPlan(model, offered, method, parsed, (), model.input_size, False, 0, cost, models, data_sets)


def _found(
    models: Mapping[str, Model], methods: Mapping[str, OfferedMethod], model_name: str, method_name: str
) -> tuple[Model, OfferedMethod]:
    if model_name not in models:
        raise not_found("model", model_name, models, "model")
    if method_name not in methods:
        raise not_found("method", method_name, methods, "method.name")
    return models[model_name], methods[method_name]


def _check_targets(offered: OfferedMethod, options: PlainOptions, *, given: bool) -> None:
    method = offered.method
    assert isinstance(method, Synthesis)
    try:
        wanted = bool(method.takes_target(options))
    except Exception as error:
        raise method_failed(offered, "failed while it was planned") from error
    depends = " with these options" if method.target_use() is TargetUse.BY_OPTIONS else ""
    if wanted and not given:
        raise InvalidInput(f"the method {method.name!r} makes pictures of targets{depends}; name one", field="targets")
    if given and not wanted:
        raise InvalidInput(f"the method {method.name!r} takes no target{depends}; leave it out", field="targets")


def check_count(method: Synthesis | Inspection, count: int) -> None:
    """Refuse any other number of pictures than the method takes.

    Raises:
        InvalidInput: there are too few, or too many (REQUEST_INVALID, at "inputs").
    """
    taken = [(name.rstrip("?+*"), name[-1]) for name in method.takes]
    least = sum(how not in "?*" for _, how in taken)
    most = math.inf if any(how in "+*" for _, how in taken) else len(taken)
    if not least <= count <= most:
        words = {"?": " (may be left out)", "+": " (one or more)", "*": " (any number)"}
        names = ", ".join(f"{name}{words.get(how, '')}" for name, how in taken)
        raise InvalidInput(
            f"the method {method.name!r} takes {names or 'no pictures'}; there are {count}", field="inputs"
        )


def _check_output(output: Output, place: str, model: Model) -> None:
    """Refuse what cannot be made of an image, or asks for what only a map has."""
    if isinstance(output, MapOutput):
        if output.normalised:
            raise InvalidInput(
                "an image is 0 (black) to 1 (white) already", reason="OUTPUT_INVALID", field=f"{place}.map.normalised"
            )
    elif not isinstance(output, PictureOutput):
        raise InvalidInput("an image has neither boxes nor a mask", reason="OUTPUT_INVALID", field=place)
    elif output.colour_map:
        raise InvalidInput("an image has its own colours", reason="OUTPUT_INVALID", field=f"{place}.picture.colour_map")
    elif model.input_channels not in (1, 3):
        raise InvalidInput(
            f"images of {model.input_channels} channels are no pictures; ask for a map",
            reason="OUTPUT_INVALID",
            field=place,
        )


def _artifact_bytes(outputs: Sequence[Output], size: tuple[int, int], model: Model) -> int:
    """Return about how many bytes the artifacts of one picture will take: a file is counted as its pixels."""
    numbers = size[0] * size[1] * model.input_channels
    return sum(
        numbers * (np.dtype(output.dtype).itemsize if isinstance(output, MapOutput) else 1) for output in outputs
    )


def _priced(offered: OfferedMethod, options: Mapping[str, Any]) -> tuple[PlainOptions, float]:
    try:
        parsed = parse_options(offered.method.Options, options)
    except WhylightError as error:
        raise error.within("method") from None
    try:
        cost = float(offered.method.cost(parsed))
        if not 0 < cost < math.inf:
            raise ValueError(f"a cost of {cost}")
    except WhylightError as error:
        raise error.within("method") from None
    except Exception as error:
        raise method_failed(offered, "failed while it was planned") from error
    return parsed, cost
