"""What `guardrails.drift.two_sample` is made of: ranks, tables of p-values, honest chi-squares, MMD, corrections."""
