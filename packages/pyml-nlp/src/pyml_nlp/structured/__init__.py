"""Structured output: generated text that matches a JSON schema, a regular expression or a grammar, by construction.

Before each choice, tokens that would violate the grammar are masked. Tokens that the grammar forces are appended
without sampling. Grammars are those of llguidance (https://github.com/guidance-ai/llguidance), which is installed by
the extra ``structured``.
"""
