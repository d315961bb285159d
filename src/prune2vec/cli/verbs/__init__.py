"""The verbs, one file each; ``prune2vec.cli.app`` has their order."""
