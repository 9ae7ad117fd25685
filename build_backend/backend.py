"""The build backend: setuptools, plus torch in the build environment when the native operators are to be built.

The operators use torch's stable ABI, so any torch >= 2.11 gives the same extension. An isolated build sees no torch of
the environment that it installs into; this backend lends it that torch when there is one, and otherwise asks pip for
one, so that a plain ``pip install`` has native operators. ``WHYLIGHT_NATIVE=0`` leaves them out.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import sys
import sysconfig
from collections.abc import Iterator

from setuptools import build_meta
from setuptools.build_meta import *  # noqa: F403


def _lend_installed_torch() -> bool:
    for path in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        if path not in sys.path and os.path.isdir(os.path.join(path, "torch", "include")):
            sys.path.append(path)
    return importlib.util.find_spec("torch") is not None


@contextlib.contextmanager
def _without_native() -> Iterator[None]:
    """Have setup.py leave the operators out: it is asked for names and versions only, maybe before torch is there."""
    stated = os.environ.get("WHYLIGHT_NATIVE")
    os.environ["WHYLIGHT_NATIVE"] = "0"
    try:
        yield
    finally:
        del os.environ["WHYLIGHT_NATIVE"]
        if stated is not None:
            os.environ["WHYLIGHT_NATIVE"] = stated


def _with_torch(stated: list[str]) -> list[str]:
    if os.environ.get("WHYLIGHT_NATIVE") == "0" or _lend_installed_torch():
        return stated
    return [*stated, "torch>=2.11"]


def get_requires_for_build_wheel(config_settings: dict[str, object] | None = None) -> list[str]:
    """Return what a wheel needs to be built, torch included if it has to be fetched."""
    with _without_native():
        stated = build_meta.get_requires_for_build_wheel(config_settings)
    return _with_torch(stated)


def get_requires_for_build_editable(config_settings: dict[str, object] | None = None) -> list[str]:
    """Return what an editable install needs to be built, torch included if it has to be fetched."""
    with _without_native():
        stated = build_meta.get_requires_for_build_editable(config_settings)
    return _with_torch(stated)


def prepare_metadata_for_build_wheel(metadata_directory: str, config_settings: dict[str, object] | None = None) -> str:
    """Write the metadata of a wheel."""
    with _without_native():
        return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(
    metadata_directory: str, config_settings: dict[str, object] | None = None
) -> str:
    """Write the metadata of an editable install."""
    with _without_native():
        return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(
    wheel_directory: str, config_settings: dict[str, object] | None = None, metadata_directory: str | None = None
) -> str:
    """Build a wheel."""
    _lend_installed_torch()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(
    wheel_directory: str, config_settings: dict[str, object] | None = None, metadata_directory: str | None = None
) -> str:
    """Build an editable install."""
    _lend_installed_torch()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
