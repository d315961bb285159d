"""Cuts on models in memory, one kind a file; each returns a new model and never edits its argument."""
