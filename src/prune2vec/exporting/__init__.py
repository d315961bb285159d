"""Encoders in the forms of other runtimes: a target writes a folder, checks it, and refuses what its form cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prune2vec.registry import lazy_names

if TYPE_CHECKING:
    from prune2vec.exporting.job import Exported as Exported
    from prune2vec.exporting.job import export_encoder as export_encoder
    from prune2vec.exporting.job import export_loaded as export_loaded
    from prune2vec.exporting.registry import targets as targets

__all__ = ["Exported", "export_encoder", "export_loaded", "targets"]
__getattr__ = lazy_names(__name__, job=("Exported", "export_encoder", "export_loaded"), registry=("targets",))
