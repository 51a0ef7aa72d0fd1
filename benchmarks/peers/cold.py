"""A new process of one engine: load a model, write a few tokens after a prompt, greedily, and end.

    python cold.py llama_cpp | ik_llama_cpp | openvino | transformers MODEL THREADS PROMPT TOKENS

Each as its own documentation begins; ik_llama.cpp's package has the C interface only, and its ids are printed.
"""

from __future__ import annotations

import sys


def llama_cpp(model: str, threads: int, prompt: str, tokens: int) -> str:
    """llama-cpp-python's high-level interface."""
    from llama_cpp import Llama

    lm = Llama(model, n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    return str(lm(prompt, max_tokens=tokens, temperature=0.0)["choices"][0]["text"])


def ik_llama_cpp(model: str, threads: int, prompt: str, tokens: int) -> str:
    """ik_llama.cpp, through the runner of its measurements: token ids."""
    import numpy as np
    from protocol import Test
    from run_llama_cpp import LlamaCpp

    lm = LlamaCpp(model, threads, "ik_llama_cpp")
    context = lm.get_context(Test.parse("pp512"), "fa=1 rtr=0")
    ids = lm.encode(prompt)
    lm.prefill(context, ids, 0, 0)
    last, chosen = len(ids) - 1, []
    while True:
        logits = np.ctypeslib.as_array(lm.api.llama_get_logits_ith(context, last), (lm.describe()["vocab_size"],))
        chosen.append(int(logits.argmax()))
        if len(chosen) == tokens:
            return str(chosen)
        lm.decode(context, [(chosen[-1], len(ids) + len(chosen) - 1, 0, True)])
        last = 0


def openvino(model: str, threads: int, prompt: str, tokens: int) -> str:
    """OpenVINO GenAI."""
    import openvino_genai

    pipe = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)
    return str(pipe.generate(prompt, max_new_tokens=tokens, do_sample=False))


def transformers(model: str, threads: int, prompt: str, tokens: int) -> str:
    """Hugging Face transformers."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    tokenizer = AutoTokenizer.from_pretrained(model)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    inputs = tokenizer(prompt, return_tensors="pt")
    return str(tokenizer.decode(lm.generate(**inputs, max_new_tokens=tokens, do_sample=False)[0]))


if __name__ == "__main__":
    _, name, path, count, text, length = sys.argv
    write = {function.__name__: function for function in (llama_cpp, ik_llama_cpp, openvino, transformers)}[name]
    print(write(path, int(count), text, int(length)))
