"""The neuron importances; a file here registers one or several functions."""
