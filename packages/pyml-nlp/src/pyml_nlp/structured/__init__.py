"""Structured output: texts that match a JSON schema, a regular expression or a grammar, by construction.

Before a token is chosen, those that would leave the grammar are taken out of play. What the grammar forces is not
chosen at all. The grammars are those of llguidance (https://github.com/guidance-ai/llguidance), which comes with the
package extra ``structured``.
"""
