"""From work to results: plans, queues, batches and the workers that run them; knows neither gRPC nor torch."""

from whylight.engine.bounds import Bounds
from whylight.engine.engine import Engine, State
from whylight.engine.local_pool import LocalPool
from whylight.engine.model_table import ModelChoice
from whylight.engine.pool import WorkerPool
from whylight.engine.reports import BatchReport, ItemReport, Load
from whylight.engine.scheduler import CloseReason
from whylight.engine.work import Watch, Work

__all__ = [
    "BatchReport",
    "Bounds",
    "CloseReason",
    "Engine",
    "ItemReport",
    "Load",
    "LocalPool",
    "ModelChoice",
    "State",
    "Watch",
    "Work",
    "WorkerPool",
]
