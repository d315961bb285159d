"""Encoding a corpus: texts to vectors, and those on disk in parts that survive a kill."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.encoding.engine import Engine as Engine
    from prune2vec.encoding.job import EncodeResult as EncodeResult
    from prune2vec.encoding.job import encode_corpus as encode_corpus
    from prune2vec.encoding.on_ray import ShardsResult as ShardsResult
    from prune2vec.encoding.on_ray import encode_on_ray as encode_on_ray
    from prune2vec.encoding.settings import EncodeSettings as EncodeSettings
    from prune2vec.encoding.store import Store as Store

__all__ = ["EncodeResult", "EncodeSettings", "Engine", "ShardsResult", "Store", "encode_corpus", "encode_on_ray"]
__getattr__ = lazy_names(
    __name__,
    engine=("Engine",),
    job=("EncodeResult", "encode_corpus"),
    on_ray=("ShardsResult", "encode_on_ray"),
    settings=("EncodeSettings",),
    store=("Store",),
)
