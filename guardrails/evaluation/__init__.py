"""What logged decisions say: what a changed guard would have done (`replay`)."""

from guardrails.evaluation.replay import Change, Replay, replay

__all__ = ["Change", "Replay", "replay"]
