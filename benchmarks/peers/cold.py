"""A cold start of one engine: load a model, write a few tokens after a prompt, greedily, and exit.

    python cold.py llama_cpp | openvino | transformers MODEL THREADS PROMPT TOKENS

Each engine runs like the first example of its documentation.
"""

from __future__ import annotations

import sys


def llama_cpp(model: str, threads: int, prompt: str, tokens: int) -> str:
    """llama-cpp-python's high-level interface."""
    from llama_cpp import Llama

    lm = Llama(model, n_ctx=512, n_threads=threads, n_threads_batch=threads, verbose=False)
    return str(lm(prompt, max_tokens=tokens, temperature=0.0)["choices"][0]["text"])


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
    write = {function.__name__: function for function in (llama_cpp, openvino, transformers)}[name]
    print(write(path, int(count), text, int(length)))
