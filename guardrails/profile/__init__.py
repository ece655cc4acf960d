"""What training looked like: one artifact that feeds every guard."""

from guardrails.profile.profile import Profile
from guardrails.profile.reference import ProfileRef
from guardrails.profile.schema import Feature, Schema

__all__ = ["Feature", "Profile", "ProfileRef", "Schema"]
