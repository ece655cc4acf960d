"""Decisions and what became of them, joined offline: one window for all, a declared aggregation and default."""

from guardrails.decisions.joined.join import join, join_store
from guardrails.decisions.joined.logged import JoinCounts, Logged

__all__ = ["JoinCounts", "Logged", "join", "join_store"]
