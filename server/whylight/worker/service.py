"""Explains what messages ask for, through an Explainer; knows nothing of sockets, threads and batches in flight."""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from whylight.data_set import DataSets
from whylight.errors import WhylightError
from whylight.explainer import DecodedInput, Explainer, ExplanationPlan, Progress, Watcher
from whylight.explainer.long_plan import LongPlan
from whylight.explainer.slices import Slices
from whylight.explanation import Explained
from whylight.models import ModelConfig, open_model
from whylight.plugins import Plugins
from whylight.subject import CancelToken
from whylight.target import Target
from whylight.v1 import explanation_pb2 as v1
from whylight.wire import (
    array_to_tensor,
    companions_from_proto,
    error_to_proto,
    input_from_proto,
    is_long,
    min_interval_from_proto,
    outputs_from_proto,
    struct_to_dict,
    targets_from_proto,
)
from whylight.worker.catalog import ready_to_proto
from whylight.worker.config import WorkerConfig
from whylight.worker.long_work import (
    DecodedLong,
    DecodedPictures,
    News,
    begin_long,
    decode_call,
    decode_long,
    long_plan,
)
from whylight.worker.result import typed_error
from whylight.worker.v1 import worker_pb2

_log = logging.getLogger(__name__)

_PLANS = 256


@dataclass(frozen=True)
class DecodedItem:
    """An item that is ready for the device."""

    id: int
    input: DecodedInput
    targets: tuple[Target, ...]
    seeds: tuple[int, ...]
    progress: v1.ProgressSpec | None = None


class ExplainerService:
    """Plans, decodes and explains. `explain` belongs to the one thread that owns the device, the rest to any."""

    def __init__(self, explainer: Explainer, ready: worker_pb2.Ready, device: torch.device) -> None:
        self.ready = ready
        self._explainer = explainer
        self._device = device
        self._plans: OrderedDict[bytes, ExplanationPlan | LongPlan] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def open(cls, config: WorkerConfig) -> ExplainerService:
        """Load the plugins and the models.

        Raises:
            ValueError: there is no model, or two have one name.
            WhylightError: a model cannot be opened.
            PluginError: a plugin cannot be used, and the config is strict.
        """
        device = torch.device(_first_device() if config.device == "auto" else config.device)
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        plugins = Plugins(only=config.plugins.only, block=config.plugins.block, strict=config.plugins.strict)
        plugins.load()
        models = {}
        for fields in config.models:
            model_config = ModelConfig.model_validate(fields)
            if model_config.name in models:
                raise ValueError(f"two models have the name {model_config.name!r}")
            models[model_config.name] = open_model(model_config, plugins.sources, device)
            _log.info("serves %s (%s) on %s", model_config.name, model_config.source, device)
        if not models:
            raise ValueError("there is no model to serve")
        default_model = next(iter(models))
        ready = ready_to_proto(
            models,
            plugins.methods,
            plugins.infos.values(),
            plugins.metrics,
            default_model=default_model,
            device=device,
        )
        cache = Path(config.cache_folder) if config.cache_folder else None
        data_sets = DataSets(config.data_sets, cache, config.limits)
        explainer = Explainer(models, plugins.methods, plugins.metrics, limits=config.limits, data_sets=data_sets)
        return cls(explainer, ready, device)

    def answer(self, question: worker_pb2.PlanRequest) -> worker_pb2.PlanReply:
        """Say whether some work is valid, and what it costs."""
        try:
            plan = self.plan(question.spec)
        except (Exception, SystemExit) as error:
            refusal = error_to_proto(typed_error(error, "planning failed"))
            return worker_pb2.PlanReply(request_id=question.request_id, error=refusal)
        return worker_pb2.PlanReply(
            request_id=question.request_id,
            cost=plan.cost,
            cost_per_target=0.0 if isinstance(plan, LongPlan) else plan.cost_per_target,
            stochastic=[plan.stochastic] if isinstance(plan, LongPlan) else plan.stochastic,
        )

    def plan(self, spec: worker_pb2.PlanSpec) -> ExplanationPlan | LongPlan:
        """Return the plan of `spec`, the last ones from memory.

        Raises:
            WhylightError: as Explainer.plan, with field paths of the request that asks for this kind of work.
        """
        key = spec.SerializeToString(deterministic=True)
        with self._lock:
            if key in self._plans:
                self._plans.move_to_end(key)
                return self._plans[key]
        plan = long_plan(self._explainer, spec) if is_long(spec.kind) else self._plan_methods(spec)
        with self._lock:
            self._plans[key] = plan
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan

    def _plan_methods(self, spec: worker_pb2.PlanSpec) -> ExplanationPlan:
        return self._explainer.plan_methods(
            spec.model,
            [
                (method.name, struct_to_dict(method.options, f"methods[{index}].options"))
                for index, method in enumerate(spec.methods)
            ],
            outputs_from_proto(spec.outputs) if spec.outputs or not spec.metrics else (),
            spec.top_predictions,
            [
                (metric.name, struct_to_dict(metric.options, f"metrics[{index}].options"))
                for index, metric in enumerate(spec.metrics)
            ],
        )

    def decode_pictures(
        self, plan: LongPlan, pictures: Sequence[v1.Input], check: Callable[[], None]
    ) -> DecodedPictures:
        """Read the pictures that the items of a call share; `check` is called before each.

        Raises:
            WhylightError: with field paths that begin with ``inputs``; or what `check` raises.
        """
        return decode_call(self._explainer, plan, pictures, check)

    def decode(
        self, plan: ExplanationPlan | LongPlan, item: worker_pb2.Item, pictures: DecodedPictures | None = None
    ) -> DecodedItem | DecodedLong:
        """Read an item's targets and its picture or array.

        Raises:
            WhylightError: with field paths that begin with ``input``.
        """
        if isinstance(plan, LongPlan):
            given = decode_call(self._explainer, plan, (), lambda: None) if pictures is None else pictures
            return decode_long(self._explainer, plan, item, given)
        targets = targets_from_proto(item.input.targets, "input.targets")
        data = input_from_proto(item.input, "input", max_elements=self._explainer.limits.tensor_elements)
        seeds = tuple(item.seeds) or (0,) * len(plan.stochastic)
        companions = companions_from_proto(item.input)
        decoded = self._explainer.decode(plan, data, companions, targets)
        progress = item.progress if item.HasField("progress") else None
        return DecodedItem(item.item_id, decoded, targets, seeds, progress)

    def explain(
        self,
        plan: ExplanationPlan,
        items: Sequence[DecodedItem],
        cancels: Sequence[CancelToken],
        tell: Callable[[worker_pb2.ItemProgress], None],
    ) -> list[Explained | WhylightError]:
        """Explain a batch; one outcome for each item, in their order. Meanwhile, `tell` those who asked of progress."""
        return self._explainer.explain(
            plan,
            [item.input for item in items],
            [item.targets for item in items],
            [item.seeds for item in items],
            cancels,
            [None if item.progress is None else self._watcher(item.id, item.progress, tell) for item in items],
        )

    def begin(
        self,
        plan: LongPlan,
        items: Sequence[DecodedLong],
        cancels: Sequence[CancelToken],
        tell: Callable[[News], None],
    ) -> Slices:
        """Return long work on items, each step of which is one `next`, and `tell` those who asked of progress."""
        return begin_long(plan, items, cancels, tell)

    def _watcher(self, id: int, spec: v1.ProgressSpec, tell: Callable[[worker_pb2.ItemProgress], None]) -> Watcher:
        def pass_on(progress: Progress) -> None:
            message = worker_pb2.ItemProgress(
                item_id=id, method_index=progress.method, done=progress.done, total=progress.total
            )
            maps = progress.maps
            if maps is not None and maps.nbytes <= self._explainer.limits.message_bytes:
                message.maps.extend(array_to_tensor(one) for one in maps.numpy())
            tell(message)

        return Watcher(pass_on, min_interval=min_interval_from_proto(spec), running_maps=spec.running_maps)

    def sound(self) -> bool:
        """Whether the device still works: after some faults of a kernel, CUDA serves nobody but a new process."""
        if self._device.type != "cuda":
            return True
        try:
            torch.cuda.synchronize(self._device)
        except RuntimeError:
            _log.critical("the device %s does not work any more", self._device, exc_info=True)
            return False
        return True


def _first_device() -> str:
    return "cuda:0" if torch.cuda.is_available() else "cpu"
