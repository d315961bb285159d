"""The same importance on plain text, as the papers measure it (C4 there): shows what the choice of texts changes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from prune2vec.backbone.load import Backbone
from prune2vec.backbone.selftest import check_sub_layers
from prune2vec.errors import ConfigError
from prune2vec.files import digest_json
from prune2vec.scorers.groups import TokenGroup
from prune2vec.scorers.plain_windows import plain_windows
from prune2vec.scorers.redundancy import redundancy
from prune2vec.scorers.registry import Advance, Found, Work, scorers
from prune2vec.scorers.settings import ProfileSettings


@scorers.register("redundancy-plain")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Importance of every attention, MLP and block on windows of plain text (LLM-Drop)."""
    if settings.plain is None:
        raise ConfigError("redundancy-plain reads plain text, and none is given; set plain to a file or folder of it")
    parts = check_sub_layers(backbone.model, backbone.family)
    windows = plain_windows(
        settings.plain,
        backbone.tokenizer,
        count=settings.windows,
        length=settings.window_length,
        context=backbone.max_length,
        seed=settings.seed,
    )

    def measure(advance: Advance, before: Found) -> Mapping[str, Any]:
        found = redundancy(backbone, parts, windows, texts="plain", token_budget=settings.token_budget, advance=advance)
        digest = digest_json([row.ids for row in windows])
        return {**found.to_json(), "windows": len(windows), "window_length": len(windows[0].ids), "digest": digest}

    return Work(sum(len(row.ids) for row in windows), measure)
