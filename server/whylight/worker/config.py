"""What a worker is told at its start, as data that travels as JSON; imports neither torch nor a plugin."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from whylight.limits import Limits


class PluginChoice(BaseModel):
    """Which plugins may be imported, by the names of their entry points."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    only: tuple[str, ...] | None = Field(
        None, description="Import these and no others. None means all that are installed."
    )
    block: tuple[str, ...] = Field((), description="Do not import these.")
    strict: bool = Field(False, description="Whether a plugin that cannot be used keeps the worker from starting.")


class WorkerConfig(BaseModel):
    """One worker: its device, its threads, its models and its plugins."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str = Field("cpu", description="Device that the worker owns: 'cpu', 'cuda:0', or 'auto'.")
    threads: int | None = Field(None, ge=1, description="Threads that compute on the CPU. None leaves it to torch.")
    decode_threads: int = Field(2, ge=1, le=64, description="Threads that decode the inputs of the next batch.")
    niceness: int = Field(0, ge=0, le=19, description="By how much the process gives way to others, if on a CPU.")
    gpu_decode: bool = Field(False, description="Whether JPEG files are decoded on the worker's GPU.")
    keep_memory_bytes: int = Field(
        2**30, ge=0, lt=2**31, description="Freed memory of the host that is kept for the next batch; 0 keeps none."
    )
    models: tuple[dict[str, Any], ...] = Field(
        (), description="The models to load, each as the fields of a ModelConfig; the first is the default model."
    )
    generations: dict[str, int] = Field(
        {}, description="Which version of a model this is, by name; the first where nothing is said."
    )
    measured: dict[str, str] = Field(
        {},
        description="What workers of this server have measured of models, as Ready.measured has it. It is used for a "
        "model with the same fingerprint and the same answers; all others are measured anew.",
    )
    warm_up_batches: tuple[int, ...] = Field((), description="Sizes of the batches that each model is warmed up with.")
    gpu_warm_up_batches: tuple[int, ...] = Field((), description="More of them, where the device is a GPU.")
    data_sets: dict[str, str] = Field({}, description="Folders and zip archives of pictures, by name.")
    cache_folder: str = Field("", description="Where methods keep what they found out about data sets; empty: nowhere.")
    plugins: PluginChoice = PluginChoice()
    limits: Limits = Limits()
    log_level: str = Field("INFO", description="Least level of the log lines that the worker writes.")

    def to_json(self) -> str:
        """Return the text that `from_json` reads."""
        return self.model_dump_json()

    @classmethod
    def from_json(cls, text: str) -> WorkerConfig:
        """Read a config.

        Raises:
            ValueError: the text is no JSON of a config.
        """
        return cls.model_validate_json(text)
