"""What plugin authors test with: a suite for methods, tiny networks, one method run alone; knows no server.

A method's tests are one class::

    from whylight.testing import MethodTests

    class TestMyMethod(MethodTests):
        method = MyMethod

The names load on first use, so that running a method does not need pytest.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from whylight.testing.fingerprints import fingerprint
    from whylight.testing.making import run_inspection, run_synthesis
    from whylight.testing.method_tests import MethodTests
    from whylight.testing.networks import conv_gap_net, functional_relu_net, relu_net, tiny_vit, tuple_output_net
    from whylight.testing.running import run_method

_HOMES = {
    "MethodTests": "method_tests",
    "conv_gap_net": "networks",
    "fingerprint": "fingerprints",
    "functional_relu_net": "networks",
    "relu_net": "networks",
    "run_inspection": "making",
    "run_method": "running",
    "run_synthesis": "making",
    "tiny_vit": "networks",
    "tuple_output_net": "networks",
}

__all__ = [
    "MethodTests",
    "conv_gap_net",
    "fingerprint",
    "functional_relu_net",
    "relu_net",
    "run_inspection",
    "run_method",
    "run_synthesis",
    "tiny_vit",
    "tuple_output_net",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'whylight.testing' has no attribute {name!r}")
    home = f"whylight.testing.{_HOMES[name]}"
    if name == "MethodTests":
        import pytest

        pytest.register_assert_rewrite(home)  # so that a failed assertion of the suite shows its values
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value
