"""A folder and texts to a trained encoder; neurons ranked and cut by training."""
