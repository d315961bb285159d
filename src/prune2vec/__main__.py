"""Run the command line with ``python -m prune2vec``."""

from prune2vec.cli.app import entry

if __name__ == "__main__":
    entry()
