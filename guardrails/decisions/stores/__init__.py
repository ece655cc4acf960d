"""Where records live: SQLite, PostgreSQL, or a Collector's logs."""
