"""``prune2vec cache clear``: deletes the converted models that are kept."""

from __future__ import annotations

from prune2vec.cli.outcome import Outcome
from prune2vec.cli.verb import verb
from prune2vec.cli.verbs.cache import as_data


@verb(name="clear", example="prune2vec cache clear", writes=False)
def cache_clear() -> Outcome:
    """Delete the models converted from GGUF files.

    Only what prune2vec wrote into its cache is deleted (`prune2vec cache` lists it); other files there stay.
    """
    from prune2vec.backbone.cache import cache_folder, clear_cache

    copies = clear_cache()
    size = sum(copy.size for copy in copies) / 1e6
    return Outcome(f"deleted {len(copies)} converted models from {cache_folder()}: {size:,.0f} MB", as_data(copies))
