"""What training looked like: one artifact that feeds every guard."""

from guardrails.profile.profile import Profile
from guardrails.profile.reference import ProfileRef

__all__ = ["Profile", "ProfileRef"]
