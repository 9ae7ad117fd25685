"""[plugins]: which installed plugins are used; imports none."""

from __future__ import annotations

from pydantic import Field

from whylight.settings.section import Section


class PluginSettings(Section):
    """Which installed plugins are used. Applied before their code is imported."""

    only: list[str] | None = Field(None, description="Names of the plugins to use. Unset means all that are installed.")
    block: list[str] = Field([], description="Names of plugins not to use.")
    strict: bool = Field(False, description="Whether the server refuses to start when a plugin fails to load.")
