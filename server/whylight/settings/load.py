"""Where the settings come from, and readable errors about them; starts nothing and imports no torch.

A setting comes from, in falling order of weight: a flag, the environment (``WHYLIGHT_SERVER__PORT=50052``; whole
sections and lists as JSON), the TOML file, its default.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsError

from whylight.models.companion import Companion
from whylight.settings.models import ServedModel
from whylight.settings.settings import DELIMITER, PREFIX, Settings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

CONFIG_VARIABLE = "WHYLIGHT_CONFIG"
"""Environment variable that names the TOML file."""


class ConfigurationError(Exception):
    """The settings are wrong; the message tells an operator which, where and why."""


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
        return Companion.model_fields if "companions" in place else ServedModel.model_fields
    section = Settings.model_fields[str(place[0])].annotation
    return section.model_fields if isinstance(section, type) and issubclass(section, BaseModel) else ()


def _meant(word: str, words: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(words), n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; there are {', '.join(words)}"
