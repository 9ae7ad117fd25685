"""[logging]: how the log is written; writes nothing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from whylight.settings.section import Section


class LoggingSettings(Section):
    """How the log is written, to standard error; how much of it, `server.log_level` says."""

    format: Literal["text", "json"] = Field(
        "text", description="`text` is for people; `json` writes each record as an object on a line, for collectors."
    )
    requests: bool = Field(
        False,
        description="Whether each request gets a line: what it asked for, its status, its times. Never what was in it.",
    )
