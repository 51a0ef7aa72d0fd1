"""Anthropic's Messages: bodies of requests as those of chat requests, and answers as messages and events. No HTTP."""

from __future__ import annotations

from .answer import MessageAnswer
from .request import MessagesRequest, messages_request

__all__ = ["MessageAnswer", "MessagesRequest", "messages_request"]
