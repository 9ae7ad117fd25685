"""The rules of ARCHITECTURE.md that can be checked by reading: what a room may import, and what a file must have."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "server" / "whylight"
FORBIDDEN = {
    "engine": {
        "torch",
        "torchvision",
        "grpc",
        "pluggy",
        "whylight.rpc",
        "whylight.subject",
        "whylight.models",
        "whylight.ops",
    },
    "rpc": {
        "torch",
        "torchvision",
        "pluggy",
        "whylight.subject",
        "whylight.ops",
        "whylight.explainer",
        "whylight.plugins",
    },
    "open_inference": {
        "torch",
        "torchvision",
        "pluggy",
        "whylight.subject",
        "whylight.ops",
        "whylight.explainer",
        "whylight.plugins",
        "whylight.models",
    },
    "client": {
        "torch",
        "torchvision",
        "pluggy",
        "whylight.engine",
        "whylight.subject",
        "whylight.models",
        "whylight.ops",
    },
    "security": {
        "torch",
        "torchvision",
        "grpc",
        "google",
        "pluggy",
        "whylight.rpc",
        "whylight.engine",
        "whylight.wire",
    },
    "wire": {"torch", "torchvision", "grpc", "pluggy", "whylight.engine", "whylight.subject", "whylight.ops"},
    "telemetry": {
        "torch",
        "torchvision",
        "grpc",
        "pluggy",
        "whylight.rpc",
        "whylight.subject",
        "whylight.models",
        "whylight.ops",
        "whylight.explainer",
        "whylight.plugins",
    },
    "worker": {"grpc", "whylight.rpc", "whylight.client"},
    "subject": {"grpc", "whylight.rpc", "whylight.engine", "whylight.wire", "google"},
    "models": {"grpc", "whylight.rpc", "whylight.engine", "whylight.wire", "google"},
    "synthesis": {"grpc", "google", "whylight.rpc", "whylight.engine", "whylight.wire", "whylight.models"},
    "ops": {
        "grpc",
        "google",
        "whylight.rpc",
        "whylight.engine",
        "whylight.wire",
        "whylight.subject",
        "whylight.models",
    },
}
PUBLIC = {"whylight", "whylight.ops", "whylight.synthesis"}


def modules_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "_pb2" not in path.name]


def imports_of(path: Path, *, run: bool = False) -> Iterator[str]:
    """Every module that a file imports; with `run`, leaving out what is under TYPE_CHECKING."""
    tree = ast.parse(path.read_text())
    skipped: set[ast.AST] = set()
    for node in ast.walk(tree):
        if run and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            skipped.update(child for statement in node.body for child in ast.walk(statement))
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, roots: set[str]) -> bool:
    return any(name == root or name.startswith(root + ".") for root in roots)


@pytest.mark.parametrize("room", FORBIDDEN)
def test_a_room_imports_only_what_it_may(room: str) -> None:
    assert (PACKAGE / room).is_dir()
    broken = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules_of(PACKAGE / room)
        for name in imports_of(path, run=True)
        if is_within(name, FORBIDDEN[room])
    ]
    assert not broken


def test_plugins_import_only_public_names() -> None:
    import whylight

    broken = []
    for path in modules_of(ROOT / "plugins"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
                broken += [
                    f"{path.name}: {name}" for name in names if name.startswith("whylight.") and name not in PUBLIC
                ]
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("whylight"):
                own = node.module.split(".")[0] != "whylight" and node.module.split(".")[0] in path.parts
                public = node.module == "whylight" and all(alias.name in whylight.__all__ for alias in node.names)
                if not own and not public and node.module not in PUBLIC:
                    broken.append(f"{path.name}: from {node.module} import …")
    assert not broken


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("whylight", {"torch", "pluggy", "grpc", "pydantic"}),
        ("whylight.client", {"torch", "pluggy", "pydantic", "matplotlib"}),
        ("whylight.cli", {"torch", "pluggy", "grpc"}),
        ("whylight.serve, whylight.rpc.server", {"torch", "torchvision", "whylight_cam", "whylight_gradients"}),
        ("whylight.plugins", {"torch", "grpc"}),
        (
            "whylight_cam, whylight_gradients, whylight_relevance, whylight_torchvision, whylight_timm, whylight_demo",
            {"torchvision", "timm", "grpc"},
        ),
    ],
)
def test_an_import_stays_light(modules: str, absent: set[str]) -> None:
    code = f"import sys, {modules}; print(*sorted(set(sys.modules) & {absent!r}))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


def test_every_public_name_exists_and_is_listed() -> None:
    import whylight

    assert sorted(whylight.__all__) == sorted({*whylight._HOME, *whylight._NAMESPACES})
    for name in whylight.__all__:
        assert getattr(whylight, name) is not None


def source_files() -> list[Path]:
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    kinds = {".py", ".cpp", ".cu", ".cuh", ".h", ".ts", ".go", ".proto"}
    return [ROOT / name for name in listed.stdout.splitlines() if Path(name).suffix in kinds and (ROOT / name).exists()]


def test_no_file_is_above_500_lines() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in source_files()
        if (count := len(path.read_text().splitlines())) > 500
    }
    # The proto of a service stays in one file with its messages (AIP-191); most of its lines are comments.
    assert set(long) <= {"proto/whylight/v1/explanation.proto"}


def test_every_module_says_what_it_is() -> None:
    silent = [
        str(path.relative_to(ROOT))
        for folder in ("server", "plugins", "scripts", "examples", "benchmarks")
        for path in modules_of(ROOT / folder)
        if path.read_text().strip() and not ast.get_docstring(ast.parse(path.read_text()))
    ]
    assert not silent
