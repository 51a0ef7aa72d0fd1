"""Ollama's chat and generate: requests as bodies of chat requests, and answers as objects of a stream. No HTTP."""

from __future__ import annotations

from .answer import OllamaAnswer
from .request import OllamaRequest, chat_body, generate_body

__all__ = ["OllamaAnswer", "OllamaRequest", "chat_body", "generate_body"]
