"""Field paths of errors in other words: whole parts only, the first beginning that fits, and the error itself stays."""

from __future__ import annotations

import pytest

from whylight.errors import InvalidInput, NotFound, Violation


@pytest.mark.parametrize(
    ("field", "moved"),
    [
        ("input", "inputs[3]"),
        ("input.image", "inputs[3].image"),
        ("input[0]", "inputs[3][0]"),
        ("inputs", "inputs"),
        ("inputs[1]", "inputs[1]"),
        ("input.targets[2].label", "targets[2].label"),
        ("input.targets", "targets"),
        ("input.targetsize", "inputs[3].targetsize"),
        ("", ""),
    ],
)
def test_a_beginning_is_replaced_where_it_ends_at_a_part(field: str, moved: str) -> None:
    error = NotFound("no such thing", reason="LABEL_NOT_FOUND", violations=[Violation(field, "why")], retry_after=2.0)
    found = error.locate({"input.targets": "targets", "input": "inputs[3]"})
    assert found.violations == (Violation(moved, "why"),)
    assert error.violations == (Violation(field, "why"),), "the error itself stays as it is"
    assert (type(found), found.message, found.reason, found.retry_after) == (
        NotFound,
        "no such thing",
        "LABEL_NOT_FOUND",
        2.0,
    )


def test_the_cause_goes_along_for_the_log() -> None:
    error = InvalidInput("no")
    error.__cause__ = cause = ValueError("why")
    assert error.locate({}).__cause__ is cause
