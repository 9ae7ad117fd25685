"""Methods that do what a test of the telemetry needs, as the source of a plugin: wait, fail, write to the log."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
import logging
import os

import torch
import whylight

log = logging.getLogger("whylight_observed")


class Plain(whylight.Attribution):
    """Explains nothing, at once."""

    name = "plain"

    class Options(whylight.Options):
        secret: str = ""

    def attribute(self, subject, batch, options):
        return torch.ones(len(batch.targets), 2, 2)


class Gated(whylight.Attribution):
    """Writes a letter to the pipe `steps` of its folder when it begins, and goes on with a byte from the pipe `go`."""

    name = "gated"

    class Options(whylight.Options):
        folder: str = ""

    def attribute(self, subject, batch, options):
        out = os.open(options.folder + "/steps", os.O_RDWR)
        into = os.open(options.folder + "/go", os.O_RDWR)
        os.write(out, b"s")
        os.read(into, 1)
        os.close(out)
        os.close(into)
        batch.cancel.check()
        return torch.ones(len(batch.targets), 2, 2)


class Failing(whylight.Attribution):
    """Raises."""

    name = "failing"

    class Options(whylight.Options):
        pass

    def attribute(self, subject, batch, options):
        raise RuntimeError("a secret of the plugin's")


class Dying(whylight.Attribution):
    """Ends its process."""

    name = "dying"

    class Options(whylight.Options):
        pass

    def attribute(self, subject, batch, options):
        os._exit(9)


class Talking(whylight.Attribution):
    """Writes to the log, and beside it."""

    name = "talking"

    class Options(whylight.Options):
        pass

    def attribute(self, subject, batch, options):
        log.warning("something is %s", "odd")
        print("printed", flush=True)
        return torch.ones(len(batch.targets), 2, 2)


@whylight.hookimpl
def whylight_methods():
    return [Plain, Gated, Failing, Dying, Talking]
'''


def install(folder: Path) -> None:
    """Make a distribution with the plugin in `folder`, for PYTHONPATH."""
    (folder / "whylight_observed.py").write_text(SOURCE)
    info = folder / "whylight_observed-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: whylight-observed\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whylight]\nobserved = whylight_observed\n")
