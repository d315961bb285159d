"""Tokens to states to vectors: batches, packing, pooling, streaming."""
