"""All that is known of drift as one HTML page: no script, nothing from elsewhere."""

from guardrails.drift.page.render import POLICY, Verdict, render

__all__ = ["POLICY", "Verdict", "render"]
