"""Texts: read, written and mined; triplets, corpora, BEIR folders."""
