"""Answers that were given before, so that equal questions cost nothing; knows neither calls nor workers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from cachetools import LRUCache

from whylight.engine.plan import Plan
from whylight.engine.work import Work
from whylight.v1 import explanation_pb2 as v1
from whylight.worker.v1 import worker_pb2


@dataclass(frozen=True)
class Edition:
    """What answers depend on besides the question: the weights of a model, the code of methods and metrics."""

    model_digest: str
    versions: tuple[str, ...]

    @classmethod
    def of(cls, catalog: worker_pb2.Ready, spec: worker_pb2.PlanSpec, digest: str) -> Edition | None:
        """Return what a plan is answered by, on a model with this digest; None when not all of it is known."""
        methods = {method.name: method.version for method in catalog.methods}
        metrics = {metric.name: metric.version for metric in catalog.metrics}
        versions = [
            *(methods.get(method.name, "") for method in spec.methods),
            *(metrics.get(metric.name, "") for metric in spec.metrics),
        ]
        return cls(digest, tuple(versions)) if all([digest, *versions]) else None


class ResponseCache:
    """The answers that were asked for last, up to a number of bytes.

    A question is the plan (model, methods, options, outputs), the seeds of its stochastic methods, the input with its
    targets, byte for byte, and the `Edition` that answers it. Peers that leave a part of it out give wrong answers
    (Triton's key is the inputs alone). What draws a seed of its own is never kept: its caller wants another answer.
    Neither are errors, for they may have causes outside the question, nor long work, which is told as it goes.
    """

    def __init__(self, max_bytes: int) -> None:
        self._kept: LRUCache[bytes, bytes] = LRUCache(max_bytes, getsizeof=len)
        self.hits = 0
        self.misses = 0

    @property
    def size(self) -> int:
        """Bytes of the answers that are kept."""
        return int(self._kept.currsize)

    def keys(self, work: Work, plan: Plan, edition: Edition | None) -> Sequence[bytes | None]:
        """Return the key of each input; None where the answer must not be kept."""
        seeds = work.seeds or (None,) * len(plan.stochastic)
        drawn = [seed for seed, stochastic in zip(seeds, plan.stochastic, strict=True) if stochastic]
        if plan.long or edition is None or None in drawn:
            return [None] * len(work.inputs)
        question = hashlib.blake2b(digest_size=32)
        for part in (plan.key, repr((edition, drawn)).encode()):
            question.update(len(part).to_bytes(8, "little"))
            question.update(part)
        keys = []
        for input in work.inputs:
            key = question.copy()
            key.update(input.SerializeToString(deterministic=True))
            keys.append(key.digest())
        return keys

    def get(self, key: bytes | None) -> v1.InputResult | None:
        """Return a copy of the answer, marked as one that was kept; None when there is none."""
        if key is None:
            return None
        kept = self._kept.get(key)
        if kept is None:
            self.misses += 1
            return None
        self.hits += 1
        result = v1.InputResult.FromString(kept)
        for explanation in result.explained.explanations:
            explanation.execution.cached = True
        return result

    def put(self, key: bytes | None, result: v1.InputResult) -> None:
        """Keep an answer, unless it is an error or larger than everything that may be kept."""
        if key is None or not result.HasField("explained"):
            return
        kept = result.SerializeToString()
        if len(kept) <= self._kept.maxsize:
            self._kept[key] = kept
