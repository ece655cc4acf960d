"""Handwritten digits: images, one by one, in batches, and as a stream."""
