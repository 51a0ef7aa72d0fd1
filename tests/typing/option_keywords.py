"""Keywords of options as a type checker sees them; mypy checks this file and nothing runs it.

Each ``type: ignore`` is an error that mypy must find: strict settings report one that it does not need.
"""

from __future__ import annotations

import numpy as np

from pyml_nlp import (
    Batch,
    ChatOptions,
    Conversation,
    Generation,
    GenerationOptions,
    LanguageModel,
    LoadOptions,
    SamplingOptions,
    TextStream,
    load,
)


def right(lm: LanguageModel, chat: Conversation) -> None:
    options = GenerationOptions(max_tokens=8, sampling=SamplingOptions(temperature=0.7, seed=1))
    one: Generation = lm.generate("a", options, temperature=0.8, top_k=5, schema={"type": "object"}, stop="x")
    text: str = lm.generate_text([1, 2], max_tokens=None, logit_bias={3: -1.0}, overflow="shift", n_keep=4)
    later: TextStream = lm.agenerate("a", order=["top_p", "temperature"], timeout=1.5)
    many: Batch = lm.generate_batch(["a", [1]], options, max_batch_size=2, logprobs=3)
    answer: Generation = lm.chat("a", options, chat_options=ChatOptions(tools=[]), variables={"x": 1}, min_p=0.1)
    turn: Generation = chat.send("a", options, draft_model=lm, regex="[a-z]")
    loaded: LanguageModel = load("m", LoadOptions(threads=2), dtype="f32", context_length=9, progress=print)
    ids: list[int] = lm.chat_ids("a", template="rag", add_generation_prompt=False)
    said: str = lm.chat_text("a", tools=[], max_tokens=3) + answer.read()
    hidden: float = lm.hidden_states(np.arange(3), [-1])[0, 0, 0] + lm.logits(np.arange(3), [0])[0, 0]
    print(said, hidden, lm.config.n_layers, lm.generate_text(np.arange(3)), lm.prefill(np.arange(3)))
    print(one, text, later, many, answer, turn, loaded, ids, lm.conversation("s", tools=None).options)


def wrong(lm: LanguageModel, chat: Conversation) -> None:
    lm.generate("a", 8.5)  # type: ignore[arg-type]
    lm.generate("a", temprature=0.8)  # type: ignore[call-arg]
    lm.generate("a", temperature="hot")  # type: ignore[arg-type]
    lm.generate("a", overflow="roll")  # type: ignore[arg-type]
    lm.generate_text("a", tools=[])  # type: ignore[call-arg]
    lm.agenerate("a", max_tokens="8")  # type: ignore[arg-type]
    lm.generate_batch(["a"], cache=None)  # type: ignore[call-arg]
    lm.chat_text("a", max_tokenz=5)  # type: ignore[call-arg]
    lm.chat("a", tool=[])  # type: ignore[call-arg]
    chat.send("a", top_k=1.5)  # type: ignore[arg-type]
    load("m", context_len=9)  # type: ignore[call-arg]
    load("m", LoadOptions().replace(thread=2))  # type: ignore[call-arg]
    lm.conversation(continue_final_message=1.5)  # type: ignore[arg-type]
    GenerationOptions().replace(max_token=1)  # type: ignore[call-arg]
