"""Builds what pyproject.toml cannot describe: the code of the .proto files and the torch extension."""

from __future__ import annotations

from pathlib import Path

from setuptools import Command, setup
from setuptools.command.build import build


class build_protos(Command):  # noqa: N801
    """Generate Python code and stubs from every .proto file under proto/."""

    description = "generate the code of the .proto files"
    user_options = [("build-lib=", "d", "where to write"), ("inplace", "i", "write beside the sources")]  # noqa: RUF012
    boolean_options = ["inplace"]  # noqa: RUF012
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib = None
        self.inplace = False

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        from grpc_tools import protoc

        target = Path("server") if self.inplace or self.editable_mode else Path(self.build_lib)
        target.mkdir(parents=True, exist_ok=True)
        outputs = [f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")]
        include = Path(protoc.__file__).parent / "_proto"
        if protoc.main(["protoc", "-Iproto", f"-I{include}", *outputs, *self.get_source_files()]):
            raise SystemExit("protoc failed")

    def get_source_files(self) -> list[str]:
        return [str(path) for path in sorted(Path("proto").rglob("*.proto"))]

    def get_outputs(self) -> list[str]:
        return []

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class build_all(build):  # noqa: N801
    """The usual build, with the generated code first."""

    sub_commands = [("build_protos", None), *build.sub_commands]  # noqa: RUF012


setup(cmdclass={"build": build_all, "build_protos": build_protos})
