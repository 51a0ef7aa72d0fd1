"""Requests and answers in the form of OpenAI's API, as plain dictionaries: what ``lm.openai`` offers.

:mod:`.fields` and :mod:`.requests` turn a request's body into prompts and options, :mod:`.answers` and :mod:`.tools`
generated texts into the body of an answer, :mod:`.api` puts them together. None of them knows HTTP.
"""

from __future__ import annotations

from .api import OpenAI
from .errors import error_body, error_status

__all__ = ["OpenAI", "error_body", "error_status"]
