"""Fixtures of the tests of faults, each of which has a `server` of its own; and where the makers of requests are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from whylight.testing.server import RunningServer
from whylight.v1 import explanation_pb2_grpc

# Requests of the Open Inference Protocol, and servers whose models change, as their own tests make them.
sys.path += [str(Path(__file__).parents[1] / folder) for folder in ("open_inference", "rpc")]


@pytest.fixture(scope="module")
def channel(server: RunningServer) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(server.address) as made:
        yield made


@pytest.fixture(scope="module")
def stub(channel: grpc.Channel) -> explanation_pb2_grpc.ExplanationServiceStub:
    return explanation_pb2_grpc.ExplanationServiceStub(channel)
