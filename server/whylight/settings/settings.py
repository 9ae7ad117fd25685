"""Everything an operator can set, and what fits together; reads nothing and starts nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from pydantic import Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from whylight.addresses import is_loopback
from whylight.engine.model_table import ModelChoice
from whylight.settings.admin import AdminSettings
from whylight.settings.authentication import AuthenticationSettings
from whylight.settings.batching import BatchingSettings, QueueSettings
from whylight.settings.limits import LimitSettings
from whylight.settings.logging import LoggingSettings
from whylight.settings.long_work import LongWorkSettings
from whylight.settings.metrics import MetricsSettings
from whylight.settings.models import ServedModel
from whylight.settings.open_inference import OpenInferenceSettings
from whylight.settings.plugins import PluginSettings
from whylight.settings.response_cache import ResponseCacheSettings
from whylight.settings.server import ServerSettings
from whylight.settings.tls import TlsSettings
from whylight.settings.tracing import TracingSettings
from whylight.settings.worker import WorkerSettings

PREFIX = "WHYLIGHT_"
DELIMITER = "__"

DEFAULT_MODEL = ServedModel(name="efficientnet-lite0", source="demo:efficientnet-lite0")
"""What a server serves when it is told nothing."""


class Settings(BaseSettings):
    """All settings of a server."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True)

    server: ServerSettings = Field(default_factory=ServerSettings, description="How clients reach the server.")
    authentication: AuthenticationSettings = Field(
        default_factory=AuthenticationSettings, description="Who may call the server."
    )
    tls: TlsSettings = Field(default_factory=TlsSettings, description="How the port is encrypted.")
    admin: AdminSettings = Field(default_factory=AdminSettings, description="Where models are changed.")
    models: list[ServedModel] = Field(
        [DEFAULT_MODEL], min_length=1, description="Models to serve: a [[models]] table for each."
    )
    default_model: str = Field(
        "", description="Name of the model of requests that name none. Empty means the first of models."
    )
    data_sets: dict[str, str] = Field(
        {},
        description="Folders and zip archives of pictures that methods may look at, by name; labels are the names "
        "of the folders that pictures are in. Requests name a data set, never a path.",
    )
    cache_folder: str = Field(
        "",
        description="Folder for what methods find out about data sets, so that they do so once. Empty: keep nothing.",
    )
    plugins: PluginSettings = Field(default_factory=PluginSettings, description="Which plugins are used.")
    batching: BatchingSettings = Field(default_factory=BatchingSettings, description="When items are put together.")
    queue: QueueSettings = Field(default_factory=QueueSettings, description="How much work may wait.")
    long_work: LongWorkSettings = Field(default_factory=LongWorkSettings, description="Syntheses and inspections.")
    response_cache: ResponseCacheSettings = Field(
        default_factory=ResponseCacheSettings, description="Answers kept for equal questions."
    )
    open_inference: OpenInferenceSettings = Field(
        default_factory=OpenInferenceSettings, description="The Open Inference Protocol, beside our own API."
    )
    limits: LimitSettings = Field(default_factory=LimitSettings, description="What one request may hold.")
    worker: WorkerSettings = Field(default_factory=WorkerSettings, description="The processes that do the work.")
    metrics: MetricsSettings = Field(default_factory=MetricsSettings, description="Where Prometheus reads.")
    tracing: TracingSettings = Field(default_factory=TracingSettings, description="Which calls are traced.")
    logging: LoggingSettings = Field(default_factory=LoggingSettings, description="How the log is written.")

    @property
    def default_model_name(self) -> str:
        """Name of the model that an empty name means."""
        return self.default_model or self.models[0].name

    def model_choices(self, workers: int | None = None) -> dict[str, ModelChoice]:
        """Return the models as the engine knows them, by name, of a server with so many workers.

        Without a number, it has as many as these settings say.
        """
        count = len(self.worker.devices) if workers is None else workers
        return {model.name: model.choice(count) for model in self.models}

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        problems = list(_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self


def _problems(settings: Settings) -> Iterator[str]:
    names = Counter(model.name for model in settings.models)
    yield from (f"models: {count} models have the name {name!r}" for name, count in names.items() if count > 1)
    if settings.default_model and settings.default_model not in names:
        yield f"default_model: {settings.default_model!r} is not among the models: {', '.join(names)}"
    yield from _places(settings)
    yield from _exposure(settings)
    both = set(settings.plugins.only or ()) & set(settings.plugins.block)
    if both:
        yield f"plugins: {', '.join(sorted(both))} cannot be both in only and in block"
    for low, high, why in (
        ("batching.max_batch", "queue.items", "a full batch must fit the queue"),
        ("batching.max_batch_cost", "queue.cost", "a full batch must fit the queue"),
        ("limits.inputs", "queue.items", "the largest request must fit the queue"),
        ("limits.message_bytes", "queue.bytes", "the largest request must fit the queue"),
        ("limits.message_bytes", "server.receive_bytes", "one message must fit"),
        ("server.response_bytes", "server.answer_bytes", "one answer must fit"),
        ("batching.max_batch_bytes", "queue.bytes", "a full batch must fit the queue"),
        ("long_work.call_cost", "long_work.queue_cost", "the dearest call must fit the queue"),
        ("worker.restart_backoff_seconds", "worker.restart_backoff_max_seconds", "the wait only grows"),
    ):
        if _value(settings, low) > _value(settings, high):
            yield f"{low} ({_value(settings, low)}) is above {high} ({_value(settings, high)}): {why}"


def _places(settings: Settings) -> Iterator[str]:
    """Say which models are for workers that there are not, and which workers would have none."""
    count = len(settings.worker.devices)
    idle = set(range(count))
    for model in settings.models:
        numbers = model.choice(count).workers
        idle.difference_update(numbers)
        if strangers := [number for number in numbers if number >= count]:
            yield (
                f"models: {model.name!r} is for worker {strangers[0]}, and worker.devices has "
                f"{count}, from 0 to {count - 1}"
            )
    yield from (f"models: none is for worker {number} ({settings.worker.devices[number]})" for number in sorted(idle))


def _exposure(settings: Settings) -> Iterator[str]:
    admin = settings.admin
    if admin.socket and admin.port is not None:
        yield "admin: either a socket or a port"
    if admin.port is not None and not settings.authentication.tokens_file:
        yield "admin.port: whoever reaches it could change the models; set authentication.tokens_file, or admin.socket"
    if admin.port is not None and not is_loopback(admin.host) and not settings.tls.certificate:
        yield f"admin.host: tokens would travel to {admin.host} in the clear; set tls.certificate and tls.key"
    if admin.port and (admin.host, admin.port) == (settings.server.host, settings.server.port):
        yield "admin.port: it is that of [server]; administration has a port of its own"
    tls = settings.tls
    if bool(tls.certificate) != bool(tls.key):
        yield "tls: certificate and key come together"
    if tls.client_ca and not tls.certificate:
        yield "tls: client_ca needs a certificate of the server's own"
    if tls.ends_elsewhere and tls.certificate:
        yield "tls: either this server has a certificate, or ends_elsewhere says that a proxy ends TLS"
    hosts = [settings.server.host, *([settings.metrics.host] if settings.metrics.port is not None else [])]
    open_host = next((host for host in hosts if not is_loopback(host)), None)
    if open_host and settings.authentication.tokens_file and not (tls.certificate or tls.ends_elsewhere):
        yield (
            f"authentication.tokens_file: tokens would travel to {open_host} in the clear; set "
            "tls.certificate and tls.key, or tls.ends_elsewhere where a proxy in front of the server ends TLS"
        )


def _value(settings: Settings, name: str) -> float:
    section, _, field = name.partition(".")
    value: float = getattr(getattr(settings, section), field)
    return value
