"""``prune2vec cache``: the converted models that are kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from prune2vec.cli.verb import Outcome, verb

if TYPE_CHECKING:
    from prune2vec.models.cache import KeptCopy


@verb(example="prune2vec cache", writes=False)
def cache() -> Outcome:
    """List the models converted from GGUF files, which are kept as safetensors.

    They lie in the folder that PRUNE2VEC_CACHE names, by default in ~/.cache/prune2vec. A model whose copy is gone is
    converted again when it is used.
    """
    from prune2vec.models.cache import cache_folder, kept_copies

    copies = kept_copies()
    lines = [f"{copy.made:%Y-%m-%d}  {copy.size / 1e6:10,.0f} MB  {copy.source}  ({copy.folder.name})" for copy in copies]
    total = sum(copy.size for copy in copies) / 1e6
    return Outcome("\n".join([*lines, f"{len(copies)} in {cache_folder()}: {total:,.0f} MB"]), as_data(copies))


def as_data(copies: list[KeptCopy]) -> dict[str, Any]:
    """Return copies as ``--json`` prints them; sizes are in bytes."""
    from prune2vec.models.cache import cache_folder

    listed = [
        {"folder": str(copy.folder), "source": copy.source, "bytes": copy.size, "made": copy.made.isoformat()}
        for copy in copies
    ]
    return {"cache": str(cache_folder()), "copies": listed}


@verb(name="clear", example="prune2vec cache clear", writes=False)
def cache_clear() -> Outcome:
    """Delete the models converted from GGUF files.

    Only what prune2vec wrote into its cache is deleted (`prune2vec cache` lists it); other files there stay.
    """
    from prune2vec.models.cache import cache_folder, clear_cache

    copies = clear_cache()
    size = sum(copy.size for copy in copies) / 1e6
    return Outcome(f"deleted {len(copies)} converted models from {cache_folder()}: {size:,.0f} MB", as_data(copies))
