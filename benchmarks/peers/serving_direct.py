"""pyml without HTTP: the texts of a load's requests, by ``generate_batch``, alone, or by ``submit``.

Reads lines ``[command, bodies, places]`` and answers each with a line of JSON.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import pyml_nlp
from pyml_core import cpu
from pyml_nlp import LanguageModel
from pyml_nlp.arguments import prompt_ids
from pyml_nlp.generation.request import Request
from pyml_nlp.openai.chat_plan import chat_plan
from pyml_nlp.openai.requests import chat_request, completion_request, without_ends


def request_of(lm: LanguageModel, body: dict[str, Any]) -> Request:
    """The request that the server makes of a body."""
    if "messages" in body:
        plan = chat_plan(lm, chat_request(body, lm.generation_options, lm.context_length))
        return Request(plan.ids, plan.common.options)
    parsed = completion_request(body, lm.generation_options)
    common = without_ends(parsed.common, lm.engine.eos_ids)
    return Request(prompt_ids(lm.engine, "prompt", parsed.prompts[0]), common.options)


def batch(lm: LanguageModel, requests: list[Request], places: int) -> dict[str, Any]:
    """Texts of a batch, their tokens, and the seconds that it took."""
    lm.prefix_cache.clear()
    return _timed(lm, requests, places)


def _timed(lm: LanguageModel, requests: list[Request], places: int) -> dict[str, Any]:
    start = time.perf_counter()
    found = list(lm.generate_batch(requests, max_batch_size=places))
    seconds = time.perf_counter() - start
    return {"texts": [one.text for one in found], "tokens": sum(len(one.tokens) for one in found), "seconds": seconds}


def decode(lm: LanguageModel, requests: list[Request], places: int) -> dict[str, Any]:
    """The same of texts whose prompts have been computed before, as ``pyml-bench`` does it."""
    lm.prefix_cache.clear()
    for request in requests:
        lm.prefill(request.prompt)
    return _timed(lm, requests, places)


def about(lm: LanguageModel, requests: list[Request], places: int) -> dict[str, Any]:
    """What runs here."""
    return {"version": pyml_nlp.__version__, "level": cpu.level()}


def submit(lm: LanguageModel, requests: list[Request], places: int) -> dict[str, Any]:
    """Seconds of each text, one after the other."""
    taken = []
    for request in requests:
        start = time.perf_counter()
        lm.submit(request.prompt, request.options).result()
        taken.append(time.perf_counter() - start)
    return {"taken": taken}


COMMANDS = {"about": about, "batch": batch, "decode": decode, "submit": submit}


def main() -> None:
    """Answer the lines of stdin."""
    model, threads, context = sys.argv[1:]
    with pyml_nlp.load(model, threads=int(threads), context_length=int(context)) as lm:
        for line in sys.stdin:
            command, bodies, places = json.loads(line)
            requests = [request_of(lm, body) for body in bodies]
            print(json.dumps(COMMANDS[command](lm, requests, places)), flush=True)


if __name__ == "__main__":
    main()
