"""Which kinds of question are long work, told once for everybody; knows not how any is answered."""

from __future__ import annotations

from whylight.v1 import catalog_pb2

LONG_KINDS = frozenset((catalog_pb2.METHOD_KIND_SYNTHESIS, catalog_pb2.METHOD_KIND_INSPECTION))
"""Kinds of work that is done a step at a time, between batches of other work."""


def is_long(kind: catalog_pb2.MethodKind) -> bool:
    """Return whether work of this kind is done a step at a time; what names no kind is attribution."""
    return kind in LONG_KINDS
