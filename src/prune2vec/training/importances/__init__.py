"""The rankings: each is one file here that registers a function."""
