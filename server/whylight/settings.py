"""Everything an operator can set, where it is read from, and what fits together; starts nothing and imports no torch.

A setting comes from, in falling order of weight: a flag, the environment (``WHYLIGHT_SERVER__PORT=50052``; whole
sections and lists as JSON), the TOML file, its default. The reference page is generated from this file
(scripts/generate_configuration_page.py).
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from whylight.engine.frames import FRAME_BYTES
from whylight.limits import Limits
from whylight.models.companion import Companion
from whylight.models.config import ModelConfig

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = "WHYLIGHT_CONFIG"
"""Environment variable that names the TOML file."""

PREFIX = "WHYLIGHT_"
DELIMITER = "__"

DEFAULT_MODEL = ModelConfig(name="efficientnet-lite0", source="demo:efficientnet-lite0")
"""What a server serves when it is told nothing."""

Positive = Annotated[int, Field(gt=0)]
InOneFrame = Annotated[int, Field(gt=0, le=FRAME_BYTES // 2)]
Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class ConfigurationError(Exception):
    """The settings are wrong; the message tells an operator which, where and why."""


class Section(BaseModel):
    """A group of settings. Unknown ones are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ServerSettings(Section):
    """Where and how the server listens."""

    host: str = Field(
        "127.0.0.1",
        min_length=1,
        description="Address to listen on. Others than this machine's own are open to the network.",
    )
    port: int = Field(
        50051, ge=0, le=65535, description="Port to listen on. 0 lets the system choose; the server prints it."
    )
    reflection: bool = Field(
        True, description="Whether clients may ask for the services' descriptions (buf curl, grpcurl)."
    )
    drain_seconds: Seconds = Field(30.0, description="After SIGTERM, how long calls in flight may take to finish.")
    lame_duck_seconds: Seconds = Field(
        0.0,
        description="After SIGTERM, how long new calls are still taken while health says NOT_SERVING: "
        "load balancers need time to look away.",
    )
    calls_per_connection: Positive = Field(
        1024, description="Calls that one connection may have open at once; more wait at the client."
    )
    stream_window: Positive = Field(
        32, description="Requests of one StreamExplain call that are worked on at once; the client's next ones wait."
    )
    response_bytes: Positive = Field(
        256 * 2**20,
        description="Bytes in one answer at most; a call that asks for more is refused with RESPONSE_TOO_LARGE.",
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="Least severity that is logged."
    )


class PluginSettings(Section):
    """Which installed plugins are used. Applied before their code is imported."""

    only: list[str] | None = Field(None, description="Names of the plugins to use. Unset means all that are installed.")
    block: list[str] = Field([], description="Names of plugins not to use.")
    strict: bool = Field(False, description="Whether the server refuses to start when a plugin fails to load.")


class BatchingSettings(Section):
    """When items are put together, and how many."""

    max_batch: Positive = Field(32, description="Inputs in one batch at most.")
    max_batch_cost: float = Field(
        256.0, gt=0, allow_inf_nan=False, description="Model evaluations in a batch at most; a dearer input goes alone."
    )
    max_batch_bytes: InOneFrame = Field(
        64 * 2**20, description="Bytes of inputs in one batch at most; a larger input goes alone."
    )
    max_delay_seconds: float = Field(
        0.0, ge=0, le=60, description="How long a free worker waits for a batch to fill. 0 sends what there is at once."
    )


class QueueSettings(Section):
    """How much work may wait; beyond it, calls are refused with RESOURCE_EXHAUSTED."""

    items: Positive = Field(4096, description="Inputs (times methods) that wait for a worker, of all callers, at most.")
    cost: float = Field(65536.0, gt=0, allow_inf_nan=False, description="Model evaluations that wait at most.")
    bytes: Positive = Field(512 * 2**20, description="Bytes of inputs that wait at most.")


class LimitSettings(Section):
    """What one request may hold. Checked before memory is set aside."""

    message_bytes: InOneFrame = Field(Limits.message_bytes, description="Bytes in one request.")
    inputs: Positive = Field(Limits.inputs, description="Inputs in one request.")
    image_pixels: Positive = Field(Limits.image_pixels, description="Pixels of one picture, as its header gives them.")
    tensor_elements: Positive = Field(Limits.tensor_elements, description="Elements of one tensor.")
    targets: Positive = Field(Limits.targets, description="Targets of one input.")
    outputs: Positive = Field(Limits.outputs, description="Outputs of one request.")
    options_bytes: Positive = Field(Limits.options_bytes, description="Bytes in the options of one method.")
    methods: Positive = Field(Limits.methods, description="Methods in one request.")
    synthesis_pixels: Positive = Field(Limits.synthesis_pixels, description="Pixels of one picture that is made.")

    def limits(self) -> Limits:
        """Return the limits as the rest of the server knows them."""
        return Limits(**self.model_dump())


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("no device; write auto, cpu, cuda or cuda:0")
    return name


class WorkerSettings(Section):
    """The processes that own the models and run the plugins, one for each device."""

    devices: list[Annotated[str, AfterValidator(_device)]] = Field(
        ["auto"],
        min_length=1,
        description='Device of each worker, such as ["cuda:0", "cuda:1"]. '
        '"auto" is the first GPU, or the CPU where there is none.',
    )
    threads: int = Field(0, ge=0, description="Threads that a worker computes with on a CPU. 0 means one per core.")
    decode_threads: Positive = Field(2, description="Threads of a worker that decode pictures.")
    start_timeout_seconds: float = Field(
        600.0, gt=0, allow_inf_nan=False, description="How long a worker may take to load its models."
    )
    restart_backoff_seconds: float = Field(
        0.5, gt=0, le=3600, description="How long to wait before a lost worker is started again."
    )
    restart_backoff_max_seconds: float = Field(
        30.0, gt=0, le=3600, description="How long to wait at most; the wait doubles with every failure in a row."
    )


class Settings(BaseSettings):
    """All settings of a server."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_nested_delimiter=DELIMITER, extra="forbid", frozen=True)

    server: ServerSettings = Field(default_factory=ServerSettings, description="How clients reach the server.")
    models: list[ModelConfig] = Field(
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
    limits: LimitSettings = Field(default_factory=LimitSettings, description="What one request may hold.")
    worker: WorkerSettings = Field(default_factory=WorkerSettings, description="The processes that do the work.")

    @property
    def default_model_name(self) -> str:
        """Name of the model that an empty name means."""
        return self.default_model or self.models[0].name

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        problems = list(_problems(self))
        if problems:
            raise ValueError("; ".join(problems))
        return self


def load_settings(path: str | Path | None = None, overrides: Mapping[str, Any] | None = None) -> Settings:
    """Read the settings.

    Args:
        path: TOML file; None means the one that WHYLIGHT_CONFIG names, if any.
        overrides: what flags say, as nested dictionaries: ``{"server": {"port": 0}}``.

    Raises:
        ConfigurationError: the file cannot be read, a key is unknown, a value is out of range, or two do not fit.
    """
    path = path or os.environ.get(CONFIG_VARIABLE) or None
    _refuse_unknown_variables()
    file = _read_toml(Path(path)) if path else {}

    class Read(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, file)

    try:
        return Read(**(overrides or {}))
    except SettingsError as error:
        raise ConfigurationError(f"the environment: {error}; lists and tables are written as JSON there") from None
    except ValidationError as error:
        raise ConfigurationError("\n".join(_describe(error))) from None


def _problems(settings: Settings) -> Iterator[str]:
    names = Counter(model.name for model in settings.models)
    yield from (f"models: {count} models have the name {name!r}" for name, count in names.items() if count > 1)
    if settings.default_model and settings.default_model not in names:
        yield f"default_model: {settings.default_model!r} is not among the models: {', '.join(names)}"
    both = set(settings.plugins.only or ()) & set(settings.plugins.block)
    if both:
        yield f"plugins: {', '.join(sorted(both))} cannot be both in only and in block"
    for low, high, why in (
        ("batching.max_batch", "queue.items", "a full batch must fit the queue"),
        ("batching.max_batch_cost", "queue.cost", "a full batch must fit the queue"),
        ("limits.inputs", "queue.items", "the largest request must fit the queue"),
        ("limits.message_bytes", "queue.bytes", "the largest request must fit the queue"),
        ("batching.max_batch_bytes", "queue.bytes", "a full batch must fit the queue"),
        ("worker.restart_backoff_seconds", "worker.restart_backoff_max_seconds", "the wait only grows"),
    ):
        if _value(settings, low) > _value(settings, high):
            yield f"{low} ({_value(settings, low)}) is above {high} ({_value(settings, high)}): {why}"


def _value(settings: Settings, name: str) -> float:
    section, _, field = name.partition(".")
    value: float = getattr(getattr(settings, section), field)
    return value


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigurationError(f"{path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path}: not a TOML file: {error}") from None


def _refuse_unknown_variables() -> None:
    """Refuse WHYLIGHT_SEVER__PORT. Variables without two underscores may be somebody else's, and are left alone."""
    for variable in os.environ:
        section, delimiter, _ = variable.upper().removeprefix(PREFIX).partition(DELIMITER)
        if variable.upper().startswith(PREFIX) and delimiter and section.lower() not in Settings.model_fields:
            raise ConfigurationError(
                f"{variable}: there is no section {section.lower()!r}{_meant(section.lower(), Settings.model_fields)}"
            )


def _describe(error: ValidationError) -> Iterator[str]:
    for detail in error.errors(include_url=False):
        place = re.sub(r"\.(\d+)", r"[\1]", ".".join(map(str, detail["loc"])))
        if detail["type"] == "extra_forbidden":
            yield f"{place}: unknown setting{_meant(str(detail['loc'][-1]), _fields_at(detail['loc'][:-1]))}"
        else:
            text = detail["msg"].removeprefix("Value error, ")
            yield f"{place}: {text} (given: {detail['input']!r})" if place else text


def _fields_at(place: tuple[int | str, ...]) -> Iterable[str]:
    """Return the settings that there are at a place, such as ("server",) or ("models", 0)."""
    if not place:
        return Settings.model_fields
    if place[0] == "models":
        return Companion.model_fields if "companions" in place else ModelConfig.model_fields
    section = Settings.model_fields[str(place[0])].annotation
    return section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else ()


def _meant(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(words)}"
