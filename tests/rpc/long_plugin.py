"""A synthesis and an inspection that go on only when the test lets them, as the source of a plugin."""

from __future__ import annotations

from pathlib import Path

SOURCE = '''
import os
import torch
import whylight


class Gate:
    """Writes a letter for each step that begins into one pipe, and waits for a byte from the other, if any."""

    def __init__(self, folder):
        self._out = os.open(folder + "/steps", os.O_RDWR) if folder else None
        self._in = os.open(folder + "/go", os.O_RDWR) if folder else None

    def pass_one(self, letter):
        if self._out is not None:
            os.write(self._out, letter.encode())
            os.read(self._in, 1)

    def close(self):
        if self._out is not None:
            os.write(self._out, b"Z")
            os.close(self._out)
            os.close(self._in)


class Brightening(whylight.Synthesis):
    """Adds the target's share of brightness to noise at each step, under a gradient mode of its own."""

    name = "brightening"
    stochastic = True
    takes = ("start?",)

    class Options(whylight.PlainOptions):
        steps: int = 4
        folder: str = ""
        letter: str = "s"
        fail_at: int = 0
        fail_class: int = -1
        memory: int = 0
        how: str = "raise"

    def synthesise(self, subject, task, options):
        gate = Gate(options.folder)
        shape = (3, *task.size)
        if options.memory and len(task.targets) > options.memory:
            raise torch.OutOfMemoryError("a test")
        images = torch.stack([0.2 * torch.rand(shape, generator=g) for g in task.generators()])
        if task.pictures.shape[1]:
            images = images + task.pictures[:, 0] / 2
        classes = [subject.aim(target).class_index for target in task.targets]
        shares = torch.tensor(classes)[:, None, None, None] / 1000
        try:
            with torch.no_grad():
                for step in range(1, options.steps + 1):
                    gate.pass_one(options.letter)
                    if step == options.fail_at and options.fail_class in (-1, *classes):
                        if options.how == "die":
                            os._exit(9)
                        raise RuntimeError("a secret of the plugin's")
                    images = images + shares / options.steps
                    yield whylight.Progress(step, options.steps, {"brightness": -images.mean((1, 2, 3))}, images)
        finally:
            gate.close()
        yield whylight.Synthesised(images, {"mean": images.mean((1, 2, 3))})

    def cost(self, options):
        return float(options.steps)


class Counting(whylight.Inspection):
    """Counts its inputs, slowly."""

    name = "counting"

    class Options(whylight.PlainOptions):
        fail: bool = False

    def inspect(self, subject, task, options):
        for step in range(1, 4):
            yield whylight.Progress(step, 3)
        if options.fail:
            raise RuntimeError("a secret of the plugin's")
        numbers = task.inputs.mean((1, 2, 3)).cpu().numpy()
        yield whylight.Inspected(
            (
                whylight.Map("means", numbers),
                whylight.Table("inputs", ("index", "kind"), tuple((float(n), "picture") for n in range(len(numbers)))),
                whylight.Points("plane", (whylight.Point(1.0, 2.0, "a"),)),
            ),
            {"targets": float(len(task.targets))},
        )


class Quick(whylight.Attribution):
    """Writes that it ran."""

    name = "quick"

    class Options(whylight.Options):
        folder: str = ""

    def attribute(self, subject, batch, options):
        end = os.open(options.folder + "/steps", os.O_RDWR)
        os.write(end, b"A")
        os.close(end)
        assert torch.is_grad_enabled()
        return torch.ones(len(batch.targets), 2, 2)


@whylight.hookimpl
def whylight_methods():
    return [Brightening, Counting, Quick]
'''


def install(folder: Path) -> None:
    """Make a distribution with the plugin in `folder`, for PYTHONPATH."""
    (folder / "whylight_long.py").write_text(SOURCE)
    info = folder / "whylight_long-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: whylight-long\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[whylight]\nlong = whylight_long\n")
