"""A folder and texts to a trained encoder; neurons scored and cut by training."""
