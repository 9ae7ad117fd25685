"""Reads what each CUDA kernel of the extension takes of a GPU, and writes it down; knows not what kernels compute.

``python scripts/cuda_resources.py`` writes tests/native/cuda_resources.txt, against which a test holds every build: a
kernel that suddenly spills or needs twice the registers is seen in the diff, without a GPU. The reader is cuobjdump,
from the CUDA toolkit or from the triton package that torch brings along.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

TABLE = Path(__file__).parent.parent / "tests" / "native" / "cuda_resources.txt"

Resources = dict[tuple[str, str], tuple[int, int, int]]
"""(registers, stack bytes, shared bytes) by (kernel, architecture); stack is where registers spill."""


def cuobjdump() -> str | None:
    """Return the path of cuobjdump, or None if there is none."""
    found = shutil.which("cuobjdump")
    if found is None:
        try:
            import triton
        except ImportError:
            return None
        bundled = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        found = str(bundled) if bundled.is_file() else None
    return found


def extension() -> Path:
    """Return the extension that is installed."""
    import whylight

    (found,) = Path(whylight.__file__).parent.glob("_C*.so")
    return found


def resources(tool: str, library: Path) -> Resources:
    """Return, by kernel and architecture, the most that any instance takes."""
    command = [tool, "--dump-resource-usage", str(library)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    table: Resources = {}
    architecture = ""
    name = ""
    for line in text.splitlines():
        if match := re.match(r"arch = (\w+)", line):
            architecture = match[1]
        elif match := re.match(r"\s*Function (\S+):", line):
            name = kernel_name(match[1])
        elif name and (match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+)", line)):
            before = table.get((name, architecture), (0, 0, 0))
            registers, stack, shared = (max(pair) for pair in zip(before, map(int, match.groups()), strict=True))
            table[name, architecture] = (registers, stack, shared)
            name = ""
    return table


def kernel_name(mangled: str) -> str:
    """Return the last plain name in a mangled one: all instances of a template are one kernel here."""
    names: list[str] = []
    at = mangled.index("N") + 1 if mangled.startswith("_ZN") else 2
    while match := re.match(r"\d+", mangled[at:]):
        start = at + match.end()
        at = start + int(match[0])
        names.append(mangled[start:at])
    return names[-1]


def read_table() -> Resources:
    """Return what was written down."""
    rows = [line.split() for line in TABLE.read_text().splitlines()[1:]]
    return {(row[0], row[1]): (int(row[2]), int(row[3]), int(row[4])) for row in rows}


def main() -> None:
    """Write the table."""
    tool = cuobjdump()
    if tool is None:
        raise SystemExit("there is no cuobjdump: install the CUDA toolkit, or triton")
    rows = [("kernel", "architecture", "registers", "stack", "shared")]
    rows += [(*key, *map(str, taken)) for key, taken in sorted(resources(tool, extension()).items())]
    TABLE.write_text("".join("{:24} {:12} {:>9} {:>6} {:>7}\n".format(*row) for row in rows))


if __name__ == "__main__":
    main()
