"""[worker]: the processes that own the models; starts none."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import AfterValidator, Field, model_validator

from whylight.settings.section import Positive, Section


def _device(name: str) -> str:
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", name):
        raise ValueError("no device; write auto, cpu, cuda or cuda:0")
    return name


class WorkerSettings(Section):
    """The processes that own the models and run the plugins, one for each entry of devices."""

    devices: list[Annotated[str, AfterValidator(_device)]] = Field(
        ["auto"],
        min_length=1,
        description='Device of each worker, such as ["cuda:0", "cuda:1"]. '
        '"auto" is the first GPU, or the CPU where there is none.',
    )
    threads: int = Field(0, ge=0, description="Threads that a worker computes with on a CPU. 0 means one per core.")
    decode_threads: Positive = Field(2, description="Threads of a worker that decode pictures.")
    niceness: int = Field(
        5,
        ge=0,
        le=19,
        description="By how much a worker that computes on a CPU gives way to the front end, which so answers at once "
        "while all cores compute. 0: not at all. Linux only.",
    )
    gpu_decode: bool = Field(
        False,
        description="Whether workers decode JPEG files on their GPU, by nvJPEG, a batch at a time. Its pixels differ "
        "from libjpeg's by a few levels, and by more at edges of colour, so that answers are not those of a server "
        "without it; hence off. Needs torchvision, and a GPU for each worker. Other files, CMYK and pictures above 16 "
        "megapixels are decoded on the host as ever.",
    )
    keep_memory_bytes: int = Field(
        2**30,
        ge=0,
        lt=2**31,
        description="Freed memory of the host that a worker keeps for its next batch, which on a CPU saves up to a "
        "tenth of the time. 0 gives all of it back.",
    )
    start_timeout_seconds: float = Field(
        600.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a worker may take to load its models at its start, and one of them later.",
    )
    warm_up_batches: list[Positive] | None = Field(
        None,
        description="Sizes of the batches that a model is tried with before it answers calls, each by grad-cam or what "
        "suits the model. Unset: 1, and on a GPU batching.max_batch too. Empty: none.",
    )
    stuck_after_seconds: float = Field(
        300.0,
        gt=0,
        allow_inf_nan=False,
        description="How long a worker with work may give no sign of life before it is killed and started again: "
        "longer than one pass of the slowest model takes.",
    )
    restart_backoff_seconds: float = Field(
        0.5,
        gt=0,
        le=3600,
        description="How long to wait before a lost worker is started again, less the time that it was up.",
    )
    restart_backoff_max_seconds: float = Field(
        30.0, gt=0, le=3600, description="How long to wait at most; the wait doubles with every failure in a row."
    )

    @model_validator(mode="after")
    def _has_what_decodes(self) -> WorkerSettings:
        if self.gpu_decode and "cpu" in self.devices:
            raise ValueError("gpu_decode needs a GPU for each worker, and devices has 'cpu'")
        return self
