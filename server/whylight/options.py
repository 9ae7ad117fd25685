"""What a caller may set for a run of a method: the base class, the layer type, the numeric profile; knows no model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from whylight.errors import InvalidInput, Violation

LAST_SPATIAL = "last-spatial"

Layer: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=256,
        description="Name of a layer, as listed for the model; 'last-spatial' is the last one with a spatial output.",
    ),
]

SERVED_MODEL_FORMAT = "served-model"
"""What the JSON schema of an option calls its format whose value is the name of a served model."""

ServedModel: TypeAlias = Annotated[
    str,
    Field(
        min_length=1,
        max_length=128,
        description="Name of another model that is served.",
        json_schema_extra={"format": SERVED_MODEL_FORMAT},
    ),
]
"""Such an option, for `Subject.other`: by it the server finds a worker that has both models."""

ProfileName: TypeAlias = Literal["paper", "pytorch-grad-cam", "captum", "torchcam"]


class PlainOptions(BaseModel):
    """Options of a synthesis or an inspection. Unknown options are refused, values are never changed."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Options(PlainOptions):
    """Options of an attribution. Subclass it beside the method, as `PlainOptions`; it adds the numeric profile."""

    profile: ProfileName = Field(
        "paper",
        description="Whose numeric conventions to follow, for side-by-side comparison: the paper's, or a library's.",
    )


AnyOptions = TypeVar("AnyOptions", bound=PlainOptions)


def parse_options(kind: type[AnyOptions], values: Mapping[str, Any]) -> AnyOptions:
    """Check `values` against the options class `kind`.

    Raises:
        InvalidInput: with one violation for each bad option, its field path beginning with ``options``.
    """
    try:
        return kind.model_validate(dict(values))
    except ValidationError as error:
        violations = [
            Violation(".".join(["options", *map(str, detail["loc"])]), _describe(kind, detail))
            for detail in error.errors(include_url=False, include_context=False)
        ]
        summary = "; ".join(f"{violation.field}: {violation.description}" for violation in violations[:4])
        raise InvalidInput(summary, reason="OPTION_INVALID", violations=violations) from None


def _describe(kind: type[PlainOptions], detail: Any) -> str:
    if detail["type"] == "extra_forbidden":
        return f"unknown option; the options are {', '.join(sorted(kind.model_fields))}"
    return str(detail["msg"])
