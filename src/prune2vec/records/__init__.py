"""Frozen records that travel between the stages as files: model shape, profile, plan, text format, settings."""
