"""TRACE: one span per request, its duration, and which traces are kept whatever the sampler said."""
