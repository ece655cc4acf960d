"""The seam to BentoML: what the pipeline asks of its host (`host`), and `install`."""
