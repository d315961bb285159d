"""Find, load and describe a model, and prove that it is understood."""
