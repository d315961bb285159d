"""Texts to vectors, a corpus to Parquet, and the nearest of them."""
