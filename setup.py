"""Builds what pyproject.toml cannot describe: the code of the .proto files and the torch extension."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import sysconfig
import warnings
from pathlib import Path
from typing import Any

from setuptools import Command, setup
from setuptools.command.build import build

TORCH_TARGET = "2.11"  # the oldest torch whose stable ABI the extension is held to
TORCH_TARGET_VERSION = "0x020b000000000000"
BUILD_INFO = Path("build/native/whylight_build_info.h")
# Their Python code would register names that are not ours in the default descriptor pool (docs/decisions/0013).
PRIVATE_PROTOS = (Path("proto/whylight/open_inference/inference.proto"),)
CUDA_ARCHITECTURES = "75 80 90 100"  # Turing to Blackwell; PTX of the last serves what comes after


class build_protos(Command):
    """Generate Python code and stubs from every .proto file under proto/."""

    description = "generate the code of the .proto files"
    user_options = [("build-lib=", "d", "where to write"), ("inplace", "i", "write beside the sources")]  # noqa: RUF012
    boolean_options = ["inplace"]  # noqa: RUF012
    editable_mode = False

    def initialize_options(self) -> None:
        """Set the options that may be given."""
        self.build_lib = None
        self.inplace = False

    def finalize_options(self) -> None:
        """Take the folder of build_py where none is given."""
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    def run(self) -> None:
        """Run protoc."""
        from grpc_tools import protoc

        target = Path("server") if self.inplace or self.editable_mode else Path(self.build_lib)
        target.mkdir(parents=True, exist_ok=True)
        include = Path(protoc.__file__).parent / "_proto"
        runs = [([f"--{kind}_out={target}" for kind in ("python", "pyi", "grpc_python")], self.get_source_files())]
        for path in PRIVATE_PROTOS:
            descriptors = target / path.relative_to("proto").with_suffix(".binpb")
            descriptors.parent.mkdir(parents=True, exist_ok=True)
            runs.append(([f"--descriptor_set_out={descriptors}", f"--pyi_out={target}"], [str(path)]))
        for outputs, sources in runs:
            if protoc.main(["protoc", "-Iproto", f"-I{include}", *outputs, *sources]):
                raise SystemExit("protoc failed")

    def get_source_files(self) -> list[str]:
        """Return the .proto files that Python code is made of."""
        return [str(path) for path in sorted(Path("proto").rglob("*.proto")) if path not in PRIVATE_PROTOS]

    def get_outputs(self) -> list[str]:
        """Return nothing: what is written is found by build_py's package data."""
        return []

    def get_output_mapping(self) -> dict[str, str]:
        """Return nothing, as get_outputs."""
        return {}


class build_all(build):
    """The usual build, with the generated code first."""

    sub_commands = [("build_protos", None), *build.sub_commands]  # noqa: RUF012


def switch(name: str) -> str:
    """Return the value of an environment variable that may be 0, 1 or auto."""
    value = os.environ.get(name, "auto")
    if value not in ("0", "1", "auto"):
        raise SystemExit(f"{name} must be 0, 1 or auto, not {value!r}")
    return value


def left_out(part: str, reason: str, *, demanded: bool) -> None:
    """Fail if a part was demanded that cannot be built, else say loudly that it is left out."""
    if demanded:
        raise SystemExit(f"whylight: {part} cannot be built: {reason}")
    warnings.warn(f"whylight is built WITHOUT {part}: {reason}", stacklevel=2)


def cuda_toolkit() -> tuple[Path, Path] | None:
    """Return the home of a CUDA toolkit, CUDA_HOME or where nvcc is, and the folder of its static runtime."""
    nvcc = shutil.which("nvcc")
    stated = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    homes = [Path(stated)] if stated else [Path("/usr/local/cuda"), *([Path(nvcc).parent.parent] if nvcc else [])]
    for home in homes:
        for folder in ("lib64", "lib", "targets/x86_64-linux/lib", "targets/sbsa-linux/lib"):
            if (home / "bin" / "nvcc").is_file() and (home / folder / "libcudart_static.a").is_file():
                return home, home / folder
    return None


def source_digest() -> str:
    """Return the digest of the sources, by the function that the package compares it with."""
    spec = importlib.util.spec_from_file_location("source_digest", "server/whylight/ops/source_digest.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    digest: str = module.source_digest(Path("csrc"))
    return digest


def write_build_info(architectures: str) -> None:
    """Write the header that schema.cpp reads, if it changed: then nothing else is compiled again."""
    text = (
        f'#define WHYLIGHT_SOURCE_DIGEST "{source_digest()}"\n'
        f'#define WHYLIGHT_TORCH_TARGET "{TORCH_TARGET}"\n'
        f'#define WHYLIGHT_CUDA_ARCHITECTURES "{architectures}"\n'
    )
    if not BUILD_INFO.is_file() or BUILD_INFO.read_text() != text:
        BUILD_INFO.parent.mkdir(parents=True, exist_ok=True)
        BUILD_INFO.write_text(text)


def native() -> dict[str, Any]:
    """Return what setup() needs to build the extension: nothing when it is switched off or cannot be built.

    WHYLIGHT_NATIVE=0/1/auto leaves it out, demands it, or builds it if torch is there; WHYLIGHT_CUDA=0/1/auto likewise
    for its CUDA kernels and nvcc; WHYLIGHT_CUDA_ARCHS="90" narrows the GPU architectures. Neither a GPU nor a torch
    with CUDA is needed: nothing of torch's CUDA is linked (csrc/common/stream.h), and CUDA's runtime is linked in.
    """
    demand = switch("WHYLIGHT_NATIVE")
    if demand == "0":
        return {}
    try:
        from torch.utils import cpp_extension
    except ImportError as error:
        left_out("its native operators", f"torch is not importable ({error})", demanded=demand == "1")
        return {}
    if platform.system() == "Windows":
        left_out("its native operators", "the kernels are written for GCC and Clang", demanded=demand == "1")
        return {}
    if shutil.which(os.environ.get("CXX", "c++").split()[0]) is None:
        left_out("its native operators", "there is no C++ compiler", demanded=demand == "1")
        return {}

    sources = sorted(str(path) for path in Path("csrc").glob("**/*.cpp") if "tests" not in path.parts)
    architectures = os.environ.get("WHYLIGHT_CUDA_ARCHS", CUDA_ARCHITECTURES).replace(";", " ").replace(".", "").split()
    demand_cuda = switch("WHYLIGHT_CUDA")
    toolkit = cuda_toolkit() if demand_cuda != "0" else None
    if demand_cuda != "0" and toolkit is None:
        left_out("CUDA kernels", "there is no CUDA toolkit (nvcc and libcudart_static)", demanded=demand_cuda == "1")

    write_build_info(" ".join(architectures) if toolkit else "")
    definitions = [f"-DTORCH_TARGET_VERSION={TORCH_TARGET_VERSION}"]
    # A warning is an error for us; whoever builds a release with another compiler or torch gets no error out of it.
    strict = ["-Werror"] if Path(".git").exists() else []
    cxx = ["-O3", "-g0", "-fvisibility=hidden", "-fopenmp-simd", "-fno-math-errno", "-fno-trapping-math"]
    # No vector crosses a function that is not inlined, so how one would be passed does not matter.
    cxx += ["-Wall", "-Wextra", "-Wno-psabi", *strict, *definitions]
    if platform.machine() == "x86_64":
        cxx.append("-mprefer-vector-width=512")
    arguments: dict[str, Any] = {"include_dirs": [str(BUILD_INFO.parent.resolve())]}
    compile_arguments = {"cxx": cxx}
    if toolkit:
        home, runtime = toolkit
        sources += sorted(str(path) for path in Path("csrc").glob("**/*.cu") if "tests" not in path.parts)
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in architectures]
        codes.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
        nvcc = ["-O3", *codes, "-DUSE_CUDA", "--compress-mode=size", *definitions]
        nvcc += [*(["-Werror", "all-warnings"] if strict else []), "-Xcompiler", "-Wall,-Wextra,-fvisibility=hidden"]
        compile_arguments["nvcc"] = nvcc
        arguments["include_dirs"].append(str(home / "include"))
        arguments["library_dirs"] = [str(runtime)]
        arguments["libraries"] = ["cudart_static", "rt", "pthread", "dl"]
        arguments["extra_link_args"] = ["-Wl,--exclude-libs,ALL"]
        # torch of another CUDA, or of none, does not matter: nothing of its CUDA libraries is linked.
        cpp_extension.CUDA_HOME = str(home)
        cpp_extension._check_cuda_version = lambda *_: None
    limited = not sysconfig.get_config_var("Py_GIL_DISABLED")  # free-threaded CPython has no stable ABI
    extension = cpp_extension.CppExtension(
        "whylight._C", sources, extra_compile_args=compile_arguments, py_limited_api=limited, **arguments
    )
    return {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": cpp_extension.BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}} if limited else {},
    }


extension = native()
commands = {"build": build_all, "build_protos": build_protos, **extension.pop("cmdclass", {})}
setup(cmdclass=commands, **extension)
