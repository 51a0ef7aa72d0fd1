"""Chat: messages to a prompt by the model's own template, and conversations of several turns.

``ChatTemplate`` renders messages as transformers' ``apply_chat_template`` does, in a process that a hostile template
cannot get out of (:mod:`.renderer`); what users say never becomes a control token (:mod:`.marks`).
"""

from __future__ import annotations

from .conversation import Conversation
from .messages import Message, Messages
from .template import ChatTemplate

__all__ = ["ChatTemplate", "Conversation", "Message", "Messages"]
