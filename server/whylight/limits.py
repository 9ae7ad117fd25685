"""What a request may hold at most, as data; checks nothing itself and knows neither torch nor gRPC."""

from __future__ import annotations

from dataclasses import dataclass

COMPANIONS = 8
"""Companions of one input at most; no model takes more."""

COMPANION_ELEMENTS = 1 << 20
"""Elements of one companion at most."""


@dataclass(frozen=True)
class Limits:
    """Upper bounds of one request, each checked before memory is set aside for what it bounds.

    `image_pixels` is width times height of a picture as its header gives it; `tensor_elements` the number of elements
    of a tensor; `targets` of one input; `synthesis_pixels` width times height of a picture that is made;
    `options_bytes` the size of one method's options as they travel.
    """

    message_bytes: int = 64 * 2**20
    inputs: int = 256
    image_pixels: int = 64 * 2**20
    tensor_elements: int = 64 * 2**20
    targets: int = 64
    outputs: int = 16
    options_bytes: int = 64 * 2**10
    methods: int = 16
    synthesis_pixels: int = 4 * 2**20
