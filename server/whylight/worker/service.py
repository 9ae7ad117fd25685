"""Explains what messages ask for, through an Explainer; knows nothing of sockets, threads and batches in flight."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL import Image

from whylight.data_set import DataSets
from whylight.errors import WhylightError
from whylight.explainer import DecodedInput, Explainer, ExplanationPlan, Progress, Watcher
from whylight.explainer.gathering import Ahead, Sender
from whylight.explainer.jpegs import Counts, JpegDecoder
from whylight.explainer.long_plan import LongPlan
from whylight.explainer.slices import Slices
from whylight.explanation import Explained
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
from whylight.worker.catalog import model_to_proto, ready_to_proto
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
from whylight.worker.measured import Measured
from whylight.worker.result import typed_error
from whylight.worker.shelf import ModelShelf, load_error
from whylight.worker.v1 import worker_pb2
from whylight.worker.warm_up import warm_up

if TYPE_CHECKING:
    from whylight.models import Model

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


@dataclass(frozen=True)
class DecodedJpeg:
    """The upright picture of a JPEG file that was decoded with others, and its share of the seconds that took."""

    image: Image.Image
    seconds: float


class ExplainerService:
    """Plans, decodes, gathers and explains. `explain` and `begin` are for one thread only, the rest for any."""

    def __init__(
        self,
        explainer: Explainer,
        shelf: ModelShelf,
        ready: worker_pb2.Ready,
        device: torch.device,
        measured: Measured,
        jpegs: JpegDecoder | None = None,
    ) -> None:
        self.ready = ready
        self._measured = measured
        self._explainer = explainer
        self._shelf = shelf
        self._device = device
        self._jpegs = jpegs
        self._sender = Sender.to(device)
        self._plans: OrderedDict[bytes, ExplanationPlan | LongPlan] = OrderedDict()
        self._shelf_changes = 0
        self._lock = threading.Lock()
        used = self.device_use()
        if used is not None:
            ready.device_use.CopyFrom(used)

    @classmethod
    def open(cls, config: WorkerConfig) -> ExplainerService:
        """Load the plugins and the models.

        Raises:
            ValueError: two models have one name, or JPEG files cannot be decoded on the device as the config wants.
            WhylightError: a model cannot be opened.
            PluginError: a plugin cannot be used, and the config is strict.
        """
        device = device_of(config)
        jpegs = JpegDecoder.for_gpu(device, config.limits) if config.gpu_decode else None
        if config.threads is not None:
            torch.set_num_threads(config.threads)
        plugins = Plugins(only=config.plugins.only, block=config.plugins.block, strict=config.plugins.strict)
        plugins.load()
        cache = Path(config.cache_folder) if config.cache_folder else None
        data_sets = DataSets(config.data_sets, cache, config.limits)
        explainer = Explainer({}, plugins.methods, plugins.metrics, limits=config.limits, data_sets=data_sets)
        batches = config.warm_up_batches + (config.gpu_warm_up_batches if device.type == "cuda" else ())
        measured = Measured(config.measured)
        shelf = ModelShelf(plugins.sources, device, lambda model: warm_up(explainer, model, batches), measured)
        for fields in config.models:
            shelf.load(fields, config.generations.get(str(fields.get("name")), 1))
        ready = ready_to_proto(
            shelf.models(),
            plugins.methods,
            plugins.infos.values(),
            plugins.metrics,
            default_model=next(iter(shelf.models()), ""),
            device=device,
            generations=shelf.generations(),
            measured=measured.known,
        )
        return cls(explainer, shelf, ready, device, measured, jpegs)

    def load(self, request: worker_pb2.LoadModel) -> worker_pb2.ModelLoaded:
        """Load a version of a model beside those that there are, while other threads go on with those."""
        reply = worker_pb2.ModelLoaded(name=request.name, generation=request.generation)
        try:
            model = self._shelf.load(json.loads(request.config), request.generation)
        except (Exception, SystemExit) as error:
            reply.error.CopyFrom(error_to_proto(load_error(error, request.name)))
            return reply
        self._forget_plans()
        reply.model.CopyFrom(model_to_proto(model, generation=request.generation))
        reply.measured.update(self._measured.known)
        return reply

    def unload(self, request: worker_pb2.UnloadModel) -> worker_pb2.ModelUnloaded:
        """Forget a version of a model."""
        self._forget_plans()
        self._shelf.forget(request.name, request.generation)
        self._forget_plans()  # what was planned in between with it beside
        return worker_pb2.ModelUnloaded(name=request.name, generation=request.generation)

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
            changes = self._shelf_changes
            if key in self._plans:
                self._plans.move_to_end(key)
                return self._plans[key]
        models = self._shelf.models_beside({**spec.other_generations, spec.model: spec.generation})
        plan = long_plan(self._explainer, spec, models) if is_long(spec.kind) else self._plan_methods(spec, models)
        with self._lock:
            if changes == self._shelf_changes:  # a plan holds its models: one of before must not be kept
                self._plans[key] = plan
            while len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan

    def _forget_plans(self) -> None:
        with self._lock:
            self._shelf_changes += 1
            self._plans.clear()

    def _plan_methods(self, spec: worker_pb2.PlanSpec, models: Mapping[str, Model]) -> ExplanationPlan:
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
            models=models,
        )

    def decode_pictures(
        self, plan: LongPlan, pictures: Sequence[v1.Input], check: Callable[[], None]
    ) -> DecodedPictures:
        """Read the pictures that the items of a call share; `check` is called before each.

        Raises:
            WhylightError: with field paths that begin with ``inputs``; or what `check` raises.
        """
        return decode_call(self._explainer, plan, pictures, check)

    def decode_together(self, plan: ExplanationPlan, items: Sequence[worker_pb2.Item]) -> dict[int, DecodedJpeg]:
        """Decode the JPEG files among a batch on the device, if the worker is told to; by item id, for `decode`."""
        images = [] if self._jpegs is None else [item for item in items if item.input.WhichOneof("data") == "image"]
        if self._jpegs is None or not images:
            return {}
        started = time.perf_counter()
        pictures = self._jpegs.decode([item.input.image for item in images])
        seconds = (time.perf_counter() - started) / len(images)
        return {
            item.item_id: DecodedJpeg(picture, seconds)
            for item, picture in zip(images, pictures, strict=True)
            if picture is not None
        }

    def decode(
        self,
        plan: ExplanationPlan | LongPlan,
        item: worker_pb2.Item,
        pictures: DecodedPictures | DecodedJpeg | None = None,
    ) -> DecodedItem | DecodedLong:
        """Read an item's targets and its picture or array.

        Raises:
            WhylightError: with field paths that begin with ``input``.
        """
        if isinstance(plan, LongPlan):
            assert not isinstance(pictures, DecodedJpeg)
            given = decode_call(self._explainer, plan, (), lambda: None) if pictures is None else pictures
            return decode_long(self._explainer, plan, item, given)
        targets = targets_from_proto(item.input.targets, "input.targets")
        picture = pictures if isinstance(pictures, DecodedJpeg) else None
        data = (
            input_from_proto(item.input, "input", max_elements=self._explainer.limits.tensor_elements)
            if picture is None
            else picture.image
        )
        seeds = tuple(item.seeds) or (0,) * len(plan.stochastic)
        companions = companions_from_proto(item.input)
        decoded = self._explainer.decode(plan, data, companions, targets)
        if picture is not None:
            decoded = replace(decoded, decode_time=decoded.decode_time + picture.seconds)
        progress = item.progress if item.HasField("progress") else None
        return DecodedItem(item.item_id, decoded, targets, seeds, progress)

    def gather(self, plan: ExplanationPlan, items: Sequence[DecodedItem]) -> Ahead:
        """Send the inputs of a batch to the device, in any thread, while it computes another.

        Raises:
            RuntimeError, MemoryError: there is no memory.
        """
        return self._sender.send(plan.model, [item.input for item in items])

    def explain(
        self,
        plan: ExplanationPlan,
        items: Sequence[DecodedItem],
        cancels: Sequence[CancelToken],
        tell: Callable[[worker_pb2.ItemProgress], None],
        ahead: Ahead | None = None,
    ) -> list[Explained | WhylightError]:
        """Explain a batch; one outcome for each item, in their order. Meanwhile, `tell` those who asked of progress.

        `ahead` is what `gather` gave for the same items.
        """
        return self._explainer.explain(
            plan,
            [item.input for item in items],
            [item.targets for item in items],
            [item.seeds for item in items],
            cancels,
            [None if item.progress is None else self._watcher(item.id, item.progress, tell) for item in items],
            ahead,
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

    def device_use(self) -> worker_pb2.DeviceUse | None:
        """Return what is held of a GPU and what it decoded; None where the device is the host. Waits for nothing."""
        if self._device.type != "cuda":
            return None
        counts = Counts() if self._jpegs is None else self._jpegs.counts
        return worker_pb2.DeviceUse(
            allocated_bytes=torch.cuda.memory_allocated(self._device),
            reserved_bytes=torch.cuda.memory_reserved(self._device),
            decoded_files=counts.decoded,
            refused_files=counts.refused,
        )

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


def device_of(config: WorkerConfig) -> torch.device:
    """Return the device that a worker owns: "auto" is the first GPU, or the CPU where there is none."""
    if config.device == "auto":
        return torch.device("cuda:0" if torch.cuda.is_available() else "cpu")
    return torch.device(config.device)
