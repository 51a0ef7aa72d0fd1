"""Uses of pyml's native code, as scenarios that can be repeated: ``repeat.py`` has the conditions."""

from __future__ import annotations

import tempfile
from array import array
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from core_cases import Model, normal, random_weight, timed_run

import pyml_nlp
from pyml_core import Choice, Program, Sample, Sampler, Slice, Top, pack
from pyml_core.block_types import BLOCK_TYPES
from pyml_core.from_file import Part, read_parts
from pyml_core.sampling import SamplingRules
from pyml_core.strings import decode_strings, split_pairs
from pyml_core.tensor import empty_matrix
from pyml_core.timing import Capture
from pyml_nn.weights import spec
from tests.helpers import tiny_files, tiny_models

Act = Callable[[], Any]


@dataclass(frozen=True)
class Scenario:
    """An action that can be repeated with an equal result.

    Attributes:
        start: prepares, and returns the action to repeat; its results are compared bit for bit.
        watched: whose allocations fail, see :meth:`preloaded.Preloaded.watch`.
        forked: each repetition is the first one in a process of its own, which has no worker threads yet.
    """

    start: Callable[[], Act]
    watched: tuple[str, ...] = ("native", "arrays", "cython")
    forked: bool = False


def program_from_the_start() -> Act:
    """Packing, declaring, and the first run of a model."""

    def act() -> Any:
        model = Model(1, max_tokens=80)
        return model.run(model.pages(70), 0, model.ids(70))

    return act


def runs() -> Act:
    """Of one row, few and many, timed, with captures."""
    models = [Model(1, (4, 2, dim), kv, soft_cap=cap) for dim, kv, cap in ((40, "f16", 0.0), (32, "int8", 9.0))]
    ids = models[0].ids(160)

    def act() -> Any:
        results: list[Any] = []
        for model in models:
            pages, start = model.pages(160), 0
            for count in (130, 1, 3, 5, 9):
                results.append(model.run(pages, start, ids[start : start + count]))
                start += count
            captures = [Capture(op) for op in model.program.operations[:12]]
            captures += [Capture(op, "scores") for op in model.program.operations if op.kind == "attention"]
            rows, timings = timed_run(model.program, [Slice(pages, start, ids[start:], [0])], captures)
            results += [rows, len(timings), [captured.arrays for captured in captures]]
        return results

    return act


def products() -> Act:
    """Of every block type, for groups of rows that are not full."""
    rng = np.random.default_rng(1)
    matrices = {name: pack(random_weight(name, 100, 512, rng)) for name in BLOCK_TYPES}
    table = pack(normal(rng, 300, 512))

    def act() -> Any:
        results = []
        for matrix in matrices.values():
            program = Program(300, threads=1)
            x = program.embed("x", table, program.buffer("x", 512))
            program.linear("y", x, [matrix], program.buffer("y", 100))
            for rows in (1, 3, 5, 7, 13, 19, 300):
                results.append(program.run([Slice((), 0, np.arange(rows, dtype=np.int32))]))
        return results

    return act


def worker_threads() -> Act:
    """The first run of a process: it makes its worker threads, all or none."""
    model = Model(4, max_tokens=80)
    ids = model.ids(70)

    def act() -> Any:
        try:
            return model.run(model.pages(70), 0, ids)
        except MemoryError:
            if len(list(Path("/proc/self/task").iterdir())) > 1:
                raise AssertionError("threads are left") from None
            raise

    return act


def packing() -> Act:
    """By several threads, of matrices of every type."""
    rng = np.random.default_rng(2)
    tensors = [random_weight(name, 700, 256, rng) for name in BLOCK_TYPES]

    def act() -> Any:
        return [pack(tensor).data for tensor in tensors]

    return act


def reading(threads: int = 1) -> Act:
    """Matrices from a file: as they are stored, in an order of their own, quantised on the way."""
    rng = np.random.default_rng(3)
    types = [("f32", "q8_0"), ("bf16", "q8_0"), *((name, name) for name in BLOCK_TYPES)]
    tensors = [random_weight(stored, 320, 512, rng) for stored, _ in types]
    file = tempfile.TemporaryFile()  # noqa: SIM115 (it is read as often as this is repeated)
    offsets = []
    for tensor in tensors:
        offsets.append(file.tell())
        file.write(tensor.data.tobytes())
    file.flush()
    orders = [None, rng.permutation(320), np.arange(320)[::-1]]

    def act() -> Any:
        parts = [
            Part(empty_matrix(dtype, (320, 512)), 0, 320, file.fileno(), offset, stored, orders[i % 3])
            for i, ((stored, dtype), offset) in enumerate(zip(types, offsets, strict=True))
        ]
        read_parts(parts, threads)
        return [part.matrix.data for part in parts]

    return act


@cache
def folder(name: str) -> Path:
    """A tiny model's files."""
    root = Path(tempfile.mkdtemp(prefix="pyml-scenarios."))
    found = tiny_models.MODELS[name]
    if name == "gemma3":
        found = replace(found, config={**found.config, "max_position_embeddings": 512})
    return tiny_files.write_hf(found, root / name)


def tiny(name: str = "gemma3", **options: Any) -> Any:
    """A tiny model, its head screened, its keys and values int8."""
    spec.SCREENED_ROWS = 16
    return pyml_nlp.load(folder(name), **{"threads": 1, "dtype": "q8_0", **options}).model


IDS = [int(i) for i in np.random.default_rng(4).integers(0, 300, 300)]


def loading() -> Act:
    """A model from its files to its first logits."""
    path = folder("gemma3")

    def act() -> Any:
        with pyml_nlp.load(path, threads=1, dtype="q8_0") as lm:
            return [lm.model.fingerprint, lm.logits(IDS[:20])]

    return act


def mixture() -> Act:
    """Experts: the program of a model that has them, made and run."""
    path = folder("mixtral")

    def act() -> Any:
        with pyml_nlp.load(path, threads=1, dtype="q8_0") as lm:
            return [lm.model.forward([(lm.new_cache(), IDS[:count], None)]) for count in (90, 1, 5)]

    return act


def caches() -> Act:
    """Growing, forking, trimming, saving and loading; the base stays unchanged."""
    models = [tiny(kv_dtype=kv) for kv in ("int8", "f16")]
    bases = [model.new_cache() for model in models]
    for model, base in zip(models, bases, strict=True):
        model.forward([(base, IDS[:100], None)])
    file = folder("gemma3") / "cache"

    def act() -> Any:
        results = []
        for model, base in zip(models, bases, strict=True):
            fork, other = base.fork(), base.fork(70)
            batch = [(fork, IDS[100:140], None), (other, IDS[70:75], [1, 4]), (model.new_cache(), IDS[:9], None)]
            results.append(model.forward(batch))
            fork.save(file)
            loaded = model.load_cache(file)
            fork.trim(64)
            results.append([loaded.ids, fork.ids, model.forward([(loaded, IDS[:3], None), (fork, IDS[:3], None)])])
            results.append([base.ids, model.forward([(base.fork(), [5], None)])])
        return results

    return act


def growing() -> Act:
    """One cache that goes on and back, over pages that it shares."""
    model = tiny()
    one = model.new_cache()
    model.forward([(one, IDS[:250], None)])

    def act() -> Any:
        one.trim(250)
        fork = one.fork()
        results = [model.forward([(one, [token], None)]) for token in IDS[250:260]]  # of these the fifth page's
        return [results, one.ids, fork.ids, model.forward([(fork, IDS[250:260], [9])])]

    return act


def sampled() -> Act:
    """Runs that go on by themselves, traced ones, and the largest logits of a screened head."""
    model = tiny()
    base = model.new_cache()
    model.forward([(base, IDS[:62], None)])
    rules = [
        SamplingRules(greedy=True),
        SamplingRules(
            ("repetition_penalty", "temperature", "top_p"), temperature=0.9, top_p=0.8, repetition_penalty=1.2
        ),
    ]

    def want(logprobs: int | None) -> Sample:
        samplers = [Sampler(each, 0, model.vocab_size, IDS[:63], logprobs=logprobs) for each in rules]
        return Sample([Choice(one, 63, history=array("i", IDS[:63]), repeat=8) for one in samplers], 20, [3, 4])

    def act() -> Any:
        one, two, other, another = (base.fork() for _ in range(4))
        found = model.forward([(one, IDS[62:63], None), (two, IDS[62:63], None)], want(None))
        with model.trace() as trace:
            traced = model.forward([(other, IDS[62:63], None), (another, IDS[62:63], None)], want(3))
        (tops,) = model.forward([(base.fork(), IDS[62:80], [0, 5, 17])], Top(5))
        tokens = [[(token.token, token.logit) for token in part] for part in (*found, *traced)]
        return [tokens, one.ids, other.ids, len(trace.events), [(top.ids, top.logits) for top in tops]]

    return act


def tracing() -> Act:
    """A trace of times and tensors."""
    model = tiny()
    base = model.new_cache()
    model.forward([(base, IDS[:62], None)])

    def act() -> Any:
        with model.trace(tensors="*") as trace:
            logits = model.forward([(base.fork(), IDS[62:80], [0, 5, 17]), (base.fork(3), [5], None)])
        names = trace.tensor_names
        return [logits, len(trace.events), names, [trace.tensor(name, sequence=1) for name in names]]

    return act


def strings() -> Act:
    """The strings of a vocabulary."""
    texts = [f"piece {i} é" * (i % 7) for i in range(500)]
    data = b"".join(len(text.encode()).to_bytes(8, "little") + text.encode() for text in texts)
    lines = [f"{text}a b" for text in ("x", "yy", "z")] * 100

    def act() -> Any:
        return [decode_strings(memoryview(data), 500), split_pairs(lines)]

    return act


# NumPy and the interpreter can do these without memory: in other actions they might crash themselves.
PYTHON_TOO = ("native", "arrays", "cython", "python")
SCENARIOS = {
    "program": Scenario(program_from_the_start),
    "runs": Scenario(runs),
    "products": Scenario(products),
    "threads": Scenario(worker_threads, ("native",), forked=True),
    "packing": Scenario(packing),
    "packing threads": Scenario(packing, ("native",), forked=True),
    "reading": Scenario(reading),
    "reading threads": Scenario(lambda: reading(4), ("native",), forked=True),
    "loading": Scenario(loading),
    "mixture": Scenario(mixture),
    "caches": Scenario(caches),
    "growing": Scenario(growing, PYTHON_TOO),
    "sampled": Scenario(sampled, PYTHON_TOO),
    "tracing": Scenario(tracing),
    "strings": Scenario(strings, PYTHON_TOO),
}
