"""A validated piece of work up to its inputs: model, methods, options, outputs; knows neither inputs nor batches."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from whylight import ops
from whylight.errors import InvalidInput, MethodFailed, NotFound, Unsupported, WhylightError
from whylight.explainer.measuring import PlannedMetric, plan_metric
from whylight.method import Attribution, Method, Need, Presentation, Synthesis
from whylight.options import Options, parse_options
from whylight.outputs import Canvas, Output, PictureOutput, PictureStyle, check_outputs
from whylight.profile import PROFILES

if TYPE_CHECKING:
    from whylight.models import Model
    from whylight.plugins import OfferedMethod, OfferedMetric


@dataclass(frozen=True)
class PlannedMethod:
    """One method of a plan.

    `options` are those in force, a layer by its own name; `colours` has a table for each output that is a picture;
    `cost` counts model evaluations for one input with one target, `cost_per_target` for each further target.
    """

    offered: OfferedMethod
    method: Attribution
    options: Options
    colours: tuple[Tensor | None, ...]
    presentation: Presentation
    scale: ops.Scale
    cost: float
    cost_per_target: float

    @property
    def stochastic(self) -> bool:
        """Whether the method draws random numbers, so that each input needs a seed."""
        return self.method.stochastic


@dataclass(frozen=True)
class ExplanationPlan:
    """What may be done to inputs of one model; inputs of one plan may share a batch.

    The methods run one after the other over one batch, so that what they need in common is computed once; behind each
    method the metrics measure its maps. A plan with metrics may be without outputs.
    """

    model: Model
    methods: tuple[PlannedMethod, ...]
    outputs: tuple[Output, ...]
    top_predictions: int
    metrics: tuple[PlannedMetric, ...] = ()

    @property
    def cost(self) -> float:
        """Model evaluations for one input with one target, by all methods and all metrics of each."""
        return sum(self._with_metrics(method.cost) for method in self.methods)

    @property
    def cost_per_target(self) -> float:
        """Model evaluations for each further target of an input, by all methods and all metrics of each."""
        return sum(self._with_metrics(method.cost_per_target) for method in self.methods)

    @property
    def stochastic(self) -> tuple[bool, ...]:
        """Which of the methods, and then of the metrics, draw random numbers: each input has a seed for each."""
        methods = tuple(method.stochastic for method in self.methods)
        return methods + tuple(metric.metric.stochastic for metric in self.metrics)

    def _with_metrics(self, cost: float) -> float:
        return cost + sum(metric.cost_on(cost) for metric in self.metrics)

    @property
    def draws_on_seen(self) -> bool:
        """Whether an output is drawn on what the model saw."""
        return Canvas.INPUT in self._overlays()

    @property
    def draws_on_original(self) -> bool:
        """Whether an output is drawn on the picture that the caller gave."""
        return Canvas.ORIGINAL in self._overlays()

    def _overlays(self) -> set[Canvas]:
        return {
            output.canvas
            for output in self.outputs
            if isinstance(output, PictureOutput) and output.style is PictureStyle.OVERLAY
        }


def make_plan(
    models: Mapping[str, Model],
    methods: Mapping[str, OfferedMethod],
    model_name: str,
    calls: Sequence[tuple[str, Mapping[str, Any]]],
    outputs: tuple[Output, ...],
    top_predictions: int,
    offered_metrics: Mapping[str, OfferedMetric] | None = None,
    measures: Sequence[tuple[str, Mapping[str, Any]]] = (),
) -> ExplanationPlan:
    """Check everything that can be known before there is an input. Field paths are those of the request.

    `calls` names methods and gives their options, in the order in which they are to run; `measures` does so for the
    metrics of their maps. Without outputs there is one map, or with metrics none.

    Raises:
        NotFound: MODEL_NOT_FOUND, METHOD_NOT_FOUND, METRIC_NOT_FOUND, LAYER_NOT_FOUND.
        InvalidInput: OPTION_INVALID, OUTPUT_INVALID, REQUEST_INVALID.
        Unsupported: METHOD_UNSUPPORTED, naming what the model lacks.
        MethodFailed: the plugin failed to say what the method costs or how its maps are shown.
    """
    model = models.get(model_name)
    if model is None:
        raise not_found("model", model_name, models, "model")
    if not calls:
        raise InvalidInput("there are no methods; at least 1 is needed", field="methods")
    if top_predictions < 0:
        raise InvalidInput(f"{top_predictions} predictions are not possible", field="top_predictions")
    outputs = check_outputs(outputs) if outputs or not measures else ()
    planned = tuple(
        _planned(model, methods, name, options, outputs, f"methods[{index}]")
        for index, (name, options) in enumerate(calls)
    )
    metrics = tuple(
        plan_metric(model, offered_metrics or {}, name, options, index)
        for index, (name, options) in enumerate(measures)
    )
    return ExplanationPlan(model, planned, outputs, top_predictions, metrics)


def method_failed(offered: OfferedMethod, what: str) -> MethodFailed:
    """Make the error of a method that is at fault; it names the method and its plugin, and nothing from inside it."""
    return MethodFailed(
        f"the method {offered.method.name!r} {what}",
        metadata={"method": offered.method.name, "plugin": offered.plugin},
    )


def _planned(
    model: Model,
    methods: Mapping[str, OfferedMethod],
    method_name: str,
    options: Mapping[str, Any],
    outputs: tuple[Output, ...],
    place: str,
) -> PlannedMethod:
    """Check one method; `place` is the path of its call."""
    offered = methods.get(method_name)
    if offered is None:
        raise not_found("method", method_name, methods, f"{place}.name")
    method = offered.method
    if not isinstance(method, Attribution):
        raise other_question(offered, "an attribution", f"{place}.name")
    missing_needs(model, method, f"{place}.name")
    try:
        given = parse_options(method.Options, options)
        parsed = _with_layer(model, method, given)
    except WhylightError as error:
        raise error.within(place) from None
    try:
        presentation = method.presentation(parsed)
        # Of the options as given: 'last-spatial' says that little lies behind the layer, which its name does not.
        cost, cost_per_target = map(float, method.costs_on(model, given))
        if not (0 < cost < math.inf and 0 <= cost_per_target < math.inf):
            raise ValueError(f"costs of {cost} and {cost_per_target} per target")
    except WhylightError as error:
        raise error.within(place) from None
    except Exception as error:
        raise method_failed(offered, "failed while it was planned") from error
    profile = PROFILES[parsed.profile]
    return PlannedMethod(
        offered=offered,
        method=method,
        options=parsed,
        colours=tuple(_colours(index, output, presentation) for index, output in enumerate(outputs)),
        presentation=presentation,
        scale=ops.Scale(
            rectify=presentation.rectified and profile.rectify,
            signed=presentation.signed,
            normalise=profile.normalise,
            eps=profile.normalise_eps,
            interpolation=profile.interpolation,
        ),
        cost=cost,
        cost_per_target=cost_per_target,
    )


def _with_layer(model: Model, method: Attribution, options: Options) -> Options:
    """Put layers' own names in place of 'last-spatial', so that the answer says which layer that was."""
    found: dict[str, str | tuple[str, ...]] = {}
    one, several = getattr(options, "layer", None), getattr(options, "layers", None)
    if isinstance(one, str):
        found["layer"] = _layer(model, method, one, "options.layer")
    if isinstance(several, tuple):
        found["layers"] = tuple(
            _layer(model, method, name, f"options.layers[{place}]") for place, name in enumerate(several)
        )
    return options.model_copy(update=found) if found else options


def _layer(model: Model, method: Attribution, name: str, field: str) -> str:
    """Return a layer's own name, if the method can make use of what the layer gives."""
    layer = model.layer(name, field=field)
    if Need.SPATIAL_LAYER in method.needs and model.layout(layer.name) is None:
        raise Unsupported(
            f"the method {method.name!r} needs a layer that gives [channels, height, width], or tokens that lie on the "
            f"picture; {layer.name!r} gives {list(layer.output_shape)}",
            field=field,
        )
    return layer.name


def _colours(index: int, output: Output, presentation: Presentation) -> Tensor | None:
    if not isinstance(output, PictureOutput):
        return None
    try:
        return ops.colour_table(output.colour_map or ("bwr" if presentation.signed else "turbo"))
    except WhylightError as error:
        raise error.within(f"outputs[{index}]") from None


def other_question(offered: OfferedMethod, wanted: str, field: str) -> Unsupported:
    """Make the error of a method that is named where another question is asked."""
    kinds = ((Attribution, "an attribution", "Explain"), (Synthesis, "a synthesis", "Synthesize"))
    found = ((what, call) for kind, what, call in kinds if isinstance(offered.method, kind))
    what, call = next(found, ("an inspection", "Inspect"))
    return Unsupported(
        f"the method {offered.method.name!r} is {what}, not {wanted}; {call} is the call for it",
        field=field,
        metadata={"method": offered.method.name},
    )


def missing_needs(model: Model, method: Method, field: str) -> None:
    """Refuse a model that lacks something that the method needs.

    Raises:
        Unsupported: METHOD_UNSUPPORTED, naming what is missing.
    """
    missing = sorted(need.value for need in method.needs - model.capabilities)
    if missing:
        raise Unsupported(
            f"the method {method.name!r} needs {', '.join(missing)}, which the model {model.name!r} has not",
            field=field,
            metadata={"method": method.name, "missing": ",".join(missing)},
        )


def not_found(kind: str, name: str, known: Collection[str], field: str) -> NotFound:
    """Make the error of a name that nothing has, with those that come close."""
    shown = name if len(name) <= 64 else f"{name[:64]}..."
    close = difflib.get_close_matches(name[:256], known, n=3)
    hint = f"did you mean {' or '.join(close)}?" if close else f"there are {', '.join(sorted(known)[:20]) or 'none'}"
    return NotFound(f"there is no {kind} {shown!r}; {hint}", reason=f"{kind.upper()}_NOT_FOUND", field=field)
