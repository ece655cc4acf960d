"""Breast tumors: a diagnosis, or a doctor."""
