"""Retrieval, MTEB and speed: ``results.json``."""
