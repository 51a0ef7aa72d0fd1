"""Compare chat templates, rendered and tokenised, with transformers' ``apply_chat_template``.

    python -m tests.oracle.chat_templates            # every template and case of tests/chat/cases.py
    python -m tests.oracle.chat_templates --write    # and write transformers' results to tests/chat/goldens.json
    python -m tests.oracle.chat_templates FOLDER     # the template and tokenizer of a model's folder

The exit code is 1 if there are differences.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import transformers
from jinja2.exceptions import TemplateError
from transformers import PreTrainedTokenizerFast

from pyml_core.errors import PymlError
from pyml_nlp.chat import ChatTemplate
from pyml_nlp.tokenizer import load_tokenizer
from tests.chat import tokenizers_of_models
from tests.chat.cases import CASES, GOLDENS, TEMPLATES, Case, undated


def expected(tokenizer: Any, case: Case) -> tuple[dict[str, str | None], list[int]]:
    """Text or error, and ids, of transformers."""
    options = {
        "tools": case.tools,
        "documents": case.documents,
        "add_generation_prompt": case.add_generation_prompt and not case.continue_final_message,
        "continue_final_message": case.continue_final_message,
        **case.variables,
    }
    try:
        text = tokenizer.apply_chat_template(case.messages, tokenize=False, **options)
    except TemplateError as error:
        said = type(error) is TemplateError  # the error of raise_exception
        return {"error": str(error) if said else None}, []
    except Exception:  # an operation on values of a wrong type, in the template's words
        return {"error": None}, []
    return {"text": text}, tokenizer.apply_chat_template(case.messages, return_dict=False, **options)


def found(template: ChatTemplate, case: Case) -> tuple[dict[str, str | None], list[int]]:
    """Render with pyml."""
    options: dict[str, Any] = {**vars(case)}
    messages = options.pop("messages")
    try:
        return {"text": template.render(messages, **options)}, template.ids(messages, **options)
    except PymlError as error:
        return {"error": str(error)}, []


def same(left: dict[str, str | None], right: dict[str, str | None]) -> bool:
    """Whether texts are equal, or both are errors, with the template's own words if there are any."""
    if "text" in left or "text" in right:
        return left == right
    return (left["error"] or "") in (right["error"] or "")


def main() -> int:
    """Compare; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    goldens: dict[str, Any] = {}
    count = differences = 0
    with tempfile.TemporaryDirectory() as temporary:
        folders = {folder.name: folder for folder in options.folders} or {
            name: tokenizers_of_models.write(name, Path(temporary) / name) for name in sorted(TEMPLATES)
        }
        for name, folder in folders.items():
            original = PreTrainedTokenizerFast.from_pretrained(folder)
            template = ChatTemplate(load_tokenizer(folder), name)
            goldens[name] = {}
            for title, case in CASES.items():
                text, ids = expected(original, case)
                own_text, own_ids = found(template, case)
                count += 1
                if not same(text, own_text) or ids != own_ids:
                    differences += 1
                    print(f"{name}, {title}:\n  expected {text} {ids}\n  got      {own_text} {own_ids}")
                goldens[name][title] = {key: value and undated(value) for key, value in text.items()}
            template.close()
    print(f"transformers {transformers.__version__}: {count} prompts, {differences} differences")
    if options.write:
        document = {"transformers": transformers.__version__, "templates": goldens}
        GOLDENS.write_text(json.dumps(document, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
