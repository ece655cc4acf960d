"""Detectors that need the rows themselves, alibi-detect's above all: in a process of their own, over a sample."""
