"""Make the goldens: results of Hugging Face transformers, in f32 with its eager attention.

    python3 -m venv oracle
    oracle/bin/pip install torch transformers peft accelerate gguf sentencepiece safetensors
    oracle/bin/python -m tests.goldens.make_goldens [tiny] [real] [greedy] [NAME ...]

With names of tiny models, those alone are made.

Nothing of pyml is imported. The files here were made with the versions in ``versions.json``:

- ``tiny/NAME.npz``, for each model of tiny_models.py: ids, positions, logits there, and at hidden_positions the output
  of the embedding and of every layer (before the final norm), shape (layers + 1, positions, width), and the attention
  probabilities of every layer over all tokens, shape (layers, heads, positions, tokens).
- ``tiny/lora_NAME.npz``, for each adapter of tiny_adapters.py: ids, positions, logits of its model with it there.
- ``tiny/NAME.npz`` of an encoder: ids, positions, and the last hidden states there.
- ``real/NAME_text.npz``: for a text of 300 tokens: ids, and at every position the argmax, the eight largest logits and
  their ids, the logits of 128 fixed sampled ids, and the log of the sum of exponentials.
- ``real/NAME_greedy.npz``: for each of prompts.json: ids of the prompt and its greedy continuation, and the gap in nats
  between the two most likely tokens at every continued position.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import tokenizers
import torch
import transformers

from tests.helpers import fetch, gpt2_random, tiny_adapters, tiny_files, tiny_models

HERE = Path(__file__).parent

TEXT_TOKENS = 300
GREEDY_TOKENS = 128
HIDDEN_POSITIONS = (0, 20, 45, 69)
POSITIONS = (0, 1, 2, 3, *range(4, 60, 3), *range(60, 70))


def versions() -> dict[str, str]:
    """Versions of the packages that computed the goldens."""
    modules = (torch, transformers, tokenizers, np)
    return {
        "python": sys.version.split()[0],
        "gguf": str(getattr(gguf, "__version__", "0.19.0")),
        **{m.__name__: m.__version__ for m in modules},
    }


def load(path: Path, **options: Any) -> Any:
    """A causal language model in f32 with eager attention, or a model that also reads images."""
    config = options.get("config") or (
        None if "gguf_file" in options else transformers.AutoConfig.from_pretrained(path)
    )
    causal = config is None or type(config) in transformers.AutoModelForCausalLM._model_mapping
    kind = transformers.AutoModelForCausalLM if causal else transformers.AutoModelForImageTextToText
    model = kind.from_pretrained(path, dtype=torch.float32, attn_implementation="eager", **options)
    return model.eval()


def outputs(model: Any, ids: list[int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A model's results for ids.

    Returns logits (T, V); hidden states (L + 1, T, W): embeddings, then each layer's output before the final norm; and
    attention probabilities (L, H, T, T).
    """
    body = getattr(model, model.base_model_prefix)
    body = getattr(body, "language_model", body)
    layers = body.layers if hasattr(body, "layers") else body.h
    states: list[torch.Tensor] = []

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    def after(module: Any, args: tuple[Any, ...], output: Any) -> None:
        states.append(output[0] if isinstance(output, tuple) else output)

    handles = [layers[0].register_forward_pre_hook(before, with_kwargs=True)]
    handles += [layer.register_forward_hook(after) for layer in layers]
    with torch.no_grad():
        found = model(torch.tensor([ids]), output_attentions=True)
    for handle in handles:
        handle.remove()
    hidden = torch.stack([state.reshape(len(ids), -1) for state in states])
    return found.logits[0].numpy(), hidden.numpy(), torch.cat(found.attentions).numpy()


def as_generated(model: Any, tiny: tiny_models.TinyModel) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The outputs for the prompt, each position as ``generate`` computes it.

    That is one pass over the prompt, but in LongRoPE's short and long sequences: it takes factors by the length of all,
    and when a text outgrows the short ones it computes all of it anew, so that no token sees both.
    """
    logits, hidden, attention = outputs(model, tiny.prompt)
    if (short := tiny.long_from) < len(tiny.prompt):
        logits[:short], hidden[:, :short], attention[:, :, :short, :short] = outputs(model, tiny.prompt[:short])
    return logits, hidden, attention


def make_tiny(root: Path, names: set[str]) -> None:
    """Goldens of these tiny random models; checks that transformers reads the GGUF twins as equal models."""
    for model in (model for name, model in tiny_models.MODELS.items() if name in names):
        folder = tiny_files.write_hf(model, root / model.name)
        logits, hidden, attention = as_generated(load(folder), model)
        np.savez_compressed(
            HERE / "tiny" / f"{model.name}.npz",
            ids=np.array(model.prompt, np.int32),
            positions=np.array(POSITIONS, np.int32),
            logits=logits[list(POSITIONS)],
            hidden_positions=np.array(HIDDEN_POSITIONS, np.int32),
            hidden=hidden[:, list(HIDDEN_POSITIONS)],
            attention=attention[:, :, list(HIDDEN_POSITIONS)],
        )
        top = np.sort(logits, axis=-1)
        print(f"{model.name}: logits std {logits.std():.2f} max {abs(logits).max():.2f}", end=" ")
        print(f"smallest gap {(top[:, -1] - top[:, -2]).min():.4f}")
        if model.gguf:
            check_gguf(model, root, logits)


def make_adapters(names: set[str]) -> None:
    """Goldens of tiny models with these random adapters, by PEFT: ids, positions, and the logits there."""
    import peft

    for adapter in (adapter for name, adapter in tiny_adapters.ADAPTERS.items() if name in names):
        with tempfile.TemporaryDirectory() as folder:
            base = load(tiny_files.write_hf(adapter.base, Path(folder) / "base"))
            path = tiny_adapters.write_peft(adapter, Path(folder) / "adapter")
            model = peft.PeftModel.from_pretrained(base, path).eval()
            ids = torch.tensor([adapter.base.prompt])
            with torch.no_grad():
                logits = model(ids).logits[0].numpy()
                with model.disable_adapter():
                    change = abs(model(ids).logits[0].numpy() - logits).max()
        np.savez_compressed(
            HERE / "tiny" / f"{adapter.name}.npz",
            ids=np.array(adapter.base.prompt, np.int32),
            positions=np.array(POSITIONS, np.int32),
            logits=logits[list(POSITIONS)],
        )
        print(f"{adapter.name}: largest change of a logit {change:.2f}")


def make_encoders(names: set[str]) -> None:
    """Goldens of these tiny random encoders: ids, and the last hidden states."""
    for model in (model for name, model in tiny_models.ENCODERS.items() if name in names):
        config = transformers.AutoConfig.for_model(**model.config)
        encoder = transformers.AutoModel.from_config(config, attn_implementation="eager", add_pooling_layer=False)
        weights = {name.removeprefix(model.prefix): torch.tensor(array) for name, array in model.weights().items()}
        encoder.load_state_dict(weights)
        with torch.no_grad():
            hidden = encoder.eval()(torch.tensor([model.prompt])).last_hidden_state[0].numpy()
        np.savez_compressed(
            HERE / "tiny" / f"{model.name}.npz", ids=np.array(model.prompt, np.int32), hidden=hidden[list(POSITIONS)],
            positions=np.array(POSITIONS, np.int32),
        )  # fmt: skip
        print(f"{model.name}: hidden states std {hidden.std():.2f} max {abs(hidden).max():.2f}")


def check_gguf(model: tiny_models.TinyModel, root: Path, logits: np.ndarray) -> None:
    """transformers reads the GGUF file that we write as an equal model, as far as it reads such files at all."""
    tiny_files.write_gguf(model, root / f"{model.name}.gguf")
    try:
        # The configuration is passed: transformers does not read biases, scaled RoPE and small contexts from the file.
        config = transformers.AutoConfig.from_pretrained(root / model.name)
        twin = load(root, gguf_file=f"{model.name}.gguf", config=config)
    except (ValueError, KeyError, RuntimeError, NotImplementedError) as error:
        print(f"  GGUF: transformers cannot read it: {type(error).__name__}: {str(error)[:200]}")
        return
    difference = abs(as_generated(twin, model)[0] - logits).max()
    print(f"  GGUF: largest difference {difference:.2e}")


def real_models() -> list[tuple[str, Any, Any]]:
    """(name, function that loads the model, function that encodes a text) of the three real shapes."""
    gemma, smollm2 = fetch.fetch(fetch.GEMMA), fetch.fetch(fetch.SMOLLM2)
    return [
        ("gemma3_270m", lambda: load(gemma.parent, gguf_file=gemma.name), lambda: gguf_encoder(gemma)),
        ("smollm2_135m", lambda: load(smollm2.parent, gguf_file=smollm2.name), lambda: gguf_encoder(smollm2)),
        ("gpt2_124m", lambda: load(gpt2_random.gpt2_folder()), gpt2_encoder),
    ]


def gguf_encoder(path: Path) -> Any:
    """text -> ids, as transformers converts the GGUF's tokenizer (for SmolLM2 with the digit split that it lacks)."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    if "SmolLM2" in path.name:
        pre = tokenizers.pre_tokenizers
        tokenizer.backend_tokenizer.pre_tokenizer = pre.Sequence(
            [pre.Digits(individual_digits=True), pre.ByteLevel(add_prefix_space=False)]
        )
        return lambda text: tokenizer(text, add_special_tokens=False).input_ids
    return lambda text: [2, *tokenizer(text, add_special_tokens=False).input_ids]


def gpt2_encoder() -> Any:
    """text -> ids by GPT-2's own vocabulary."""
    vocab, merges = fetch.fetch(fetch.GPT2_VOCAB), fetch.fetch(fetch.GPT2_MERGES)
    tokenizer = tokenizers.ByteLevelBPETokenizer(str(vocab), str(merges))
    return lambda text: tokenizer.encode(text).ids


def make_text(name: str, model: Any, encode: Any) -> None:
    """Logits over the first 300 tokens of text.txt."""
    ids = encode((HERE / "text.txt").read_text())[:TEXT_TOKENS]
    if len(ids) < TEXT_TOKENS:
        raise SystemExit(f"{name}: the text has only {len(ids)} tokens")
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0]
    sampled = np.sort(np.random.RandomState(7).choice(logits.shape[1], 128, replace=False)).astype(np.int32)
    top = logits.topk(8)
    np.savez_compressed(
        HERE / "real" / f"{name}_text.npz",
        ids=np.array(ids, np.int32),
        argmax=logits.argmax(-1).numpy().astype(np.int32),
        top_ids=top.indices.numpy().astype(np.int32),
        top_logits=top.values.numpy(),
        sampled_ids=sampled,
        sampled_logits=logits.numpy()[:, sampled],
        logsumexp=logits.logsumexp(-1).numpy(),
    )
    gaps = (top.values[:, 0] - top.values[:, 1]).numpy()
    loss = torch.nn.functional.cross_entropy(logits[:-1], torch.tensor(ids[1:])).item()
    print(f"{name}: max |logit| {logits.abs().max():.2f}, smallest gap {gaps.min():.5f}, perplexity {np.exp(loss):.2f}")


def one_pass(model: Any, ids: list[int], tokens: list[int]) -> tuple[list[int], np.ndarray]:
    """The choice at every position of ``tokens`` after ``ids`` and its gap to the second best, without a cache."""
    with torch.no_grad():
        best = model(torch.tensor([ids + tokens])).logits[0, len(ids) - 1 : -1].topk(2)
    return best.indices[:, 0].tolist(), (best.values[:, 0] - best.values[:, 1]).numpy()


def greedy(model: Any, ids: list[int], draft: list[int]) -> tuple[list[int], np.ndarray]:
    """GREEDY_TOKENS greedy tokens, whatever end tokens are among them, and their gaps in one pass over them all.

    A draft (an earlier golden) is checked in one pass and kept as far as it is right, which saves most of the decoding.
    """
    tokens: list[int] = []
    for guess, choice in zip(draft, one_pass(model, ids, draft)[0] if draft else [], strict=True):
        if guess != choice:
            break
        tokens.append(guess)
    past, feed = None, ids + tokens
    while len(tokens) < GREEDY_TOKENS:
        with torch.no_grad():
            out = model(torch.tensor([feed]), past_key_values=past, use_cache=True)
        past = out.past_key_values
        feed = [int(out.logits[0, -1].argmax())]
        tokens += feed
    choices, gaps = one_pass(model, ids, tokens)
    if choices != tokens:
        raise SystemExit("decoding with a cache chose other tokens than one pass over them")
    return tokens, gaps


def make_greedy(name: str, model: Any, encode: Any) -> None:
    """Greedy continuations of prompts.json."""
    path = HERE / "real" / f"{name}_greedy.npz"
    drafts = dict(np.load(path)) if path.exists() else {}
    arrays: dict[str, Any] = {}
    for number, prompt in enumerate(json.loads((HERE / "prompts.json").read_text())):
        ids = list(encode(prompt))
        tokens, gaps = greedy(model, ids, drafts.get(f"tokens_{number}", np.array([], np.int32)).tolist())
        arrays[f"prompt_{number}"] = np.array(ids, np.int32)
        arrays[f"tokens_{number}"] = np.array(tokens, np.int32)
        arrays[f"gaps_{number}"] = gaps
        print(f"{name} {number}: smallest gap {gaps.min():.5f}: {ids} -> {tokens[:12]}", flush=True)
    np.savez_compressed(path, **arrays)


def main(wanted: set[str]) -> None:
    """Make the requested goldens: ``tiny``, ``real`` (text), ``greedy``, tiny models by name; everything by default."""
    torch.set_num_threads(2)
    wanted = wanted or {"tiny", "real", "greedy"}
    names = set(tiny_models.MODELS) if "tiny" in wanted else wanted & set(tiny_models.MODELS)
    encoders = set(tiny_models.ENCODERS) if "tiny" in wanted else wanted & set(tiny_models.ENCODERS)
    make_encoders(encoders)
    adapters = set(tiny_adapters.ADAPTERS) if "tiny" in wanted else wanted & set(tiny_adapters.ADAPTERS)
    make_adapters(adapters)
    if unknown := wanted - names - encoders - adapters - {"tiny", "real", "greedy"}:
        raise SystemExit(f"unknown: {', '.join(sorted(unknown))}")
    if names:
        with tempfile.TemporaryDirectory() as folder:
            make_tiny(Path(folder), names)
    for name, load_model, make_encoder in real_models() if wanted & {"real", "greedy"} else []:
        model, encode = load_model(), make_encoder()
        if "real" in wanted:
            make_text(name, model, encode)
        if "greedy" in wanted and name != "gpt2_124m":
            make_greedy(name, model, encode)
    (HERE / "versions.json").write_text(json.dumps(versions(), indent=1) + "\n")


if __name__ == "__main__":
    main(set(sys.argv[1:]))
