"""What an answer says, and how it says something else: choices, rankings, decisions by a threshold, values."""

from guardrails.exploration.codec.choices import scores_of, serve

__all__ = ["scores_of", "serve"]
