"""Chat: rendering of messages with the model's template, and conversations of several turns.

``ChatTemplate`` renders messages like transformers' ``apply_chat_template``, in a separate process that a hostile
template cannot escape (:mod:`.renderer`). Text of users never becomes a control token (:mod:`.sentinels`).
"""

from __future__ import annotations

from .conversation import Conversation
from .messages import Message, Messages
from .template import ChatTemplate

__all__ = ["ChatTemplate", "Conversation", "Message", "Messages"]
