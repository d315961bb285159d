"""The export targets, one file each."""
