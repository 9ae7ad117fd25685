"""Measurements and rankings as messages and as dataclasses; knows neither how they were made nor how they travel."""

from __future__ import annotations

from whylight.evaluation import RankedMethod, Ranking
from whylight.explanation import Curve, Measurement
from whylight.v1 import explanation_pb2 as pb
from whylight.wire.options import dict_to_struct, struct_to_dict
from whylight.wire.scalars import duration_to_seconds, integer, seconds_to_duration


def measurement_to_proto(measurement: Measurement) -> pb.Measurement:
    """Return what a metric says of a map as a message."""
    seed, curve = measurement.seed, measurement.curve
    return pb.Measurement(
        metric=measurement.metric,
        metric_version=measurement.metric_version,
        options=dict_to_struct(measurement.options),
        value=measurement.value,
        higher_is_better=measurement.higher_is_better,
        curve=None if curve is None else pb.Curve(x=curve.x, y=curve.y),
        seed=None if seed is None else integer(seed, 64, signed=False, reason="REQUEST_INVALID", field="seed"),
        compute_time=seconds_to_duration(measurement.compute_time),
    )


def measurement_from_proto(message: pb.Measurement) -> Measurement:
    """Return a message as what a metric says of a map."""
    return Measurement(
        metric=message.metric,
        metric_version=message.metric_version,
        options=struct_to_dict(message.options),
        value=message.value,
        higher_is_better=message.higher_is_better,
        curve=Curve(tuple(message.curve.x), tuple(message.curve.y)) if message.HasField("curve") else None,
        seed=message.seed if message.HasField("seed") else None,
        compute_time=duration_to_seconds(message.compute_time),
    )


def ranking_to_proto(ranking: Ranking) -> pb.Ranking:
    """Return a ranking as a message."""
    return pb.Ranking(
        metric=ranking.metric,
        metric_index=ranking.metric_index,
        methods=[
            pb.RankedMethod(
                method=one.method,
                method_index=one.method_index,
                mean_rank=one.mean_rank,
                mean_value=one.mean_value or 0.0,
            )
            for one in ranking.methods
        ],
    )


def ranking_from_proto(message: pb.Ranking) -> Ranking:
    """Return a message as a ranking."""
    return Ranking(
        message.metric,
        message.metric_index,
        tuple(
            RankedMethod(one.method, one.method_index, one.mean_rank, one.mean_value if message.metric else None)
            for one in message.methods
        ),
    )
