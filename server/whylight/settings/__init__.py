"""The settings of a server: one file for each section of the TOML, and `load.py`, which reads them.

The reference page is generated from this folder (scripts/generate_configuration_page.py).
"""

from whylight.settings.load import CONFIG_VARIABLE, ConfigurationError, load_settings
from whylight.settings.settings import PREFIX, Settings

__all__ = ["CONFIG_VARIABLE", "PREFIX", "ConfigurationError", "Settings", "load_settings"]
