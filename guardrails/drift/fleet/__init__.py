"""Drift over a fleet: the counts on ``/metrics``, and the rules, alerts and dashboard that Prometheus makes of them."""
