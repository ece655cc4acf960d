"""What the guards cost, measured side by side: ``python -m benchmarks.overhead``, ``python -m benchmarks.served``."""
