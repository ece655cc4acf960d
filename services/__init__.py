"""Real services, to read, to run and to deploy."""
