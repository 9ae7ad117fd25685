"""What a failure says to a person, in a line or two; knows which are the caller's to mend and which are ours."""

from __future__ import annotations

from typing import Any

from whylight.errors import WhylightError

_EXTRAS = {
    "pluggy": "server",
    "pydantic": "server",
    "pydantic_settings": "server",
    "safetensors": "server",
    "torch": "server",
    "torchvision": "server",
    "uvloop": "server",
    "matplotlib": "server",
    "grpc_reflection": "server",
    "timm": "timm",
}


def explain_failure(error: BaseException) -> list[str] | None:
    """Return what to print about an error, or None when it is a fault of ours, which deserves its traceback."""
    if isinstance(error, WhylightError):
        return describe(error)
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        if module in _EXTRAS:
            return [
                f"this needs {module}, which is not installed: pip install 'whylight[{_EXTRAS[module]}]', "
                "or ask a server with --server HOST:PORT"
            ]
    return None


def describe(error: WhylightError) -> list[str]:
    """Return an error as lines: the message with its reason, and what is wrong in each field."""
    retry = f"; try again in {error.retry_after:g} s" if error.retry_after is not None else ""
    if len(error.violations) == 1 and error.violations[0].description == error.message:
        return [f"{error.violations[0].field}: {error.message} ({error.reason}){retry}"]
    return [
        f"{error.message} ({error.reason}){retry}",
        *(
            f"  {violation.field}: {violation.description}"
            for violation in error.violations
            if violation.description not in error.message  # a summary of a few violations says it all
        ),
    ]


def error_as_json(error: WhylightError) -> dict[str, Any]:
    """Return an error for machines."""
    return {
        "code": error.code.name,
        "reason": error.reason,
        "message": error.message,
        "violations": [vars(violation) for violation in error.violations],
        "retry_after": error.retry_after,
        "metadata": error.metadata,
    }
