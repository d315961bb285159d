"""What each depth and sub-layer of a model is worth: ``profile.json``."""
