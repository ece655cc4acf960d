"""The pipeline: one request (`call`), its guards (`pipeline`), how it is driven (`drivers`), its rows (`payload`)."""
