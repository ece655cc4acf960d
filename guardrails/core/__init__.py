"""The pipeline: one request (`call`), what surrounds it (`pipeline`), how it is driven (`drivers`), its rows (`payload`)."""
