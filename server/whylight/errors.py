"""Every error that whylight raises for a cause it knows; knows nothing of gRPC, protobuf or torch.

WhylightError             code
├── InvalidInput          INVALID_ARGUMENT      the request is wrong in itself
├── NotFound              NOT_FOUND             it names what this server has not
├── Unsupported           FAILED_PRECONDITION   this model cannot do it
├── Overloaded            RESOURCE_EXHAUSTED    more work than the server takes
│   └── RateLimited       RESOURCE_EXHAUSTED    more than this caller may ask for in a time
├── Unavailable           UNAVAILABLE           no work just now: loading, draining, a worker lost
├── DeadlineExceeded      DEADLINE_EXCEEDED
├── Cancelled             CANCELLED
├── MethodFailed          INTERNAL              a plugin's method raised
├── InternalError         INTERNAL              a fault of ours
├── PermissionDenied      PERMISSION_DENIED     the token is not for this
└── Unauthenticated       UNAUTHENTICATED

Each carries a constant `reason`; the list of reasons is in proto/whylight/v1/README.md.
"""

from __future__ import annotations

import copy
import enum
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar


class Code(enum.IntEnum):
    """Codes of google.rpc.Code that whylight answers with."""

    CANCELLED = 1
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    INTERNAL = 13
    UNAVAILABLE = 14
    UNAUTHENTICATED = 16


@dataclass(frozen=True)
class Violation:
    """What is wrong in one field of a request."""

    field: str
    description: str


class WhylightError(Exception):
    """A failure with a cause that the caller can be told.

    `reason` is a constant UPPER_SNAKE name; `field` the path of the offending field of the request, such as
    ``inputs[3].tensor.shape``; `retry_after` seconds to wait before a retry that may help.
    """

    code: ClassVar[Code] = Code.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"

    def __init__(
        self,
        message: str,
        *,
        reason: str = "",
        field: str = "",
        violations: Iterable[Violation] = (),
        retry_after: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason or self.default_reason
        self.violations = tuple(violations) or ((Violation(field, message),) if field else ())
        self.retry_after = retry_after
        self.metadata = dict(metadata or {})

    def within(self, prefix: str) -> WhylightError:
        """Return the same error with every field path put below `prefix`."""
        self.violations = tuple(
            Violation(f"{prefix}.{violation.field}" if violation.field else prefix, violation.description)
            for violation in self.violations
        )
        return self

    def locate(self, moves: Mapping[str, str]) -> WhylightError:
        """Return a copy whose field paths are in other words: a beginning that is among `moves` is replaced.

        The first that fits counts. "input" begins "input", "input.image" and "input[0]", but not "inputs".
        """
        located = copy.copy(self)
        located.__cause__ = self.__cause__
        located.violations = tuple(
            Violation(_moved(violation.field, moves), violation.description) for violation in self.violations
        )
        return located


def _moved(field: str, moves: Mapping[str, str]) -> str:
    for old, new in moves.items():
        if field.startswith(old) and field[len(old) : len(old) + 1] in ("", ".", "["):
            return new + field[len(old) :]
    return field


class InvalidInput(WhylightError):
    """The request is wrong in itself; sending it again does not help."""

    code = Code.INVALID_ARGUMENT
    default_reason = "REQUEST_INVALID"


class NotFound(WhylightError):
    """The request names something that this server has not."""

    code = Code.NOT_FOUND
    default_reason = "NOT_FOUND"


class Unsupported(WhylightError):
    """The request is right, but this model cannot do it; the message names what is missing."""

    code = Code.FAILED_PRECONDITION
    default_reason = "METHOD_UNSUPPORTED"


class Overloaded(WhylightError):
    """The server has more work than it takes."""

    code = Code.RESOURCE_EXHAUSTED
    default_reason = "QUEUE_FULL"


class RateLimited(Overloaded):
    """One caller asks for more in a time than it may; `metadata` has the `caller`, the `limit` and its `rate`."""

    default_reason = "RATE_LIMITED"


class Unavailable(WhylightError):
    """The server cannot do any work just now; a retry helps."""

    code = Code.UNAVAILABLE
    default_reason = "UNAVAILABLE"


class DeadlineExceeded(WhylightError):
    """The caller's deadline passed, or cannot be met."""

    code = Code.DEADLINE_EXCEEDED
    default_reason = "DEADLINE_EXCEEDED"


class Cancelled(WhylightError):
    """The caller took the call back."""

    code = Code.CANCELLED
    default_reason = "CANCELLED"


class MethodFailed(WhylightError):
    """A plugin's method raised, or returned what it must not; `metadata` names the plugin and the method."""

    code = Code.INTERNAL
    default_reason = "METHOD_FAILED"


class InternalError(WhylightError):
    """Anything else: a fault of ours. The message says nothing; the log says all."""

    code = Code.INTERNAL
    default_reason = "INTERNAL"


class PermissionDenied(WhylightError):
    """The caller said who it is, and may not ask for this."""

    code = Code.PERMISSION_DENIED
    default_reason = "PERMISSION_DENIED"


class Unauthenticated(WhylightError):
    """The caller did not say who it is, or not so that it can be believed."""

    code = Code.UNAUTHENTICATED
    default_reason = "UNAUTHENTICATED"
