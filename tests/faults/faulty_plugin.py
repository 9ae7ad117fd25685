"""A method that fails in every way there is, and waits at gates where a test says so, as the source of a plugin."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
import ctypes
import os
import resource
import sys
import threading

import numpy as np
import torch
import whylight
from whylight.explainer import explainer

state = threading.local()


def gate(what, rows):
    """Tell in a pipe what begins with how many rows, and wait for a byte in another, if there are any."""
    folder = getattr(state, "folder", "")
    if not folder:
        return
    out, into = os.open(folder + "/said", os.O_RDWR), os.open(folder + "/go", os.O_RDWR)
    try:
        os.write(out, f"{what} {rows}\\n".encode())
        os.read(into, 1)
    finally:
        os.close(out)
        os.close(into)


drawing = explainer.render


def render(maps, inputs, *rest):
    gate("render", len(inputs))
    return drawing(maps, inputs, *rest)


explainer.render = render


def eat():
    """Take memory until there is no more, of a limit that is as good as the machine's."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        now = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**26, hard))
    try:
        taken = []
        while True:
            taken.append(np.ones(2**20))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def any_blank(inputs):
    """Whether there is a picture of one colour."""
    return bool((inputs.flatten(2).amax(2) == inputs.flatten(2).amin(2)).all(1).any())


class Faulty(whylight.Attribution):
    """Does what its options say, and then what every method does."""

    name = "faulty"

    class Options(whylight.Options):
        how: str = "well"
        folder: str = ""
        note: str = ""

    def attribute(self, subject, batch, options):
        state.folder = options.folder
        gate("compute", len(batch.inputs))
        match options.how:
            case "raise":
                raise RuntimeError("a secret of the plugin's")
            case "exit":
                sys.exit(3)
            case "memory":
                raise MemoryError
            case "eat":
                eat()
            case "halve":
                if len(batch.inputs) > 1:
                    raise torch.OutOfMemoryError("injected")
            case "guilty" if any_blank(batch.inputs):
                raise RuntimeError("a secret of the plugin's")
            case "guilty-memory" if any_blank(batch.inputs):
                raise torch.OutOfMemoryError("injected")
            case "guilty-exit" if any_blank(batch.inputs):
                sys.exit(3)
            case "os-exit":
                os._exit(9)
            case "segfault":
                ctypes.string_at(0)
            case "abort":
                os.abort()
            case "hang":
                threading.Event().wait()
        return subject.input_gradients(batch).abs().sum(1)


@whylight.hookimpl
def whylight_methods():
    return [Faulty]
'''


def install(folder: Path) -> None:
    """Make a distribution with the plugin in `folder`, for PYTHONPATH."""
    (folder / "whylight_faulty.py").write_text(SOURCE)
    info = folder / "whylight_faulty-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: whylight-faulty\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whylight]\nfaulty = whylight_faulty\n")
