"""Requests and answers in the form of OpenAI's API, as plain dictionaries: what ``lm.openai`` offers.

:mod:`.fields` and :mod:`.requests` turn a request's body into options, and :mod:`.chat_plan` into a prompt;
:mod:`.answers`, :mod:`.chat_answer` and :mod:`.completion_answer` make the body of an answer of generated texts;
:mod:`.api` puts them together. None of them knows HTTP.
"""

from __future__ import annotations

from .api import OpenAI
from .errors import error_body, error_status

__all__ = ["OpenAI", "error_body", "error_status"]
