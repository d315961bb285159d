"""The same importance on plain text, as the papers measure it (C4 there): shows what the choice of texts changes."""

from __future__ import annotations

from collections.abc import Sequence

from prune2vec.errors import ConfigError
from prune2vec.files import digest_json
from prune2vec.forward.backbone import Backbone
from prune2vec.profiling.plain_windows import plain_windows
from prune2vec.profiling.profile_settings import ProfileSettings
from prune2vec.profiling.redundancy import SublayerImportance
from prune2vec.profiling.scorer import Request, Steps, Work, scorers
from prune2vec.profiling.token_groups import TokenGroup


@scorers.register("redundancy-plain")
def score(backbone: Backbone, groups: Sequence[TokenGroup], settings: ProfileSettings) -> Work:
    """Importance of every attention, MLP and block on windows of plain text (LLM-Drop)."""
    if settings.plain is None:
        raise ConfigError("redundancy-plain reads plain text, and none is given; set plain to a file or folder of it")
    parts = backbone.sub_layers()
    windows = plain_windows(
        settings.plain,
        backbone.tokenizer,
        count=settings.windows,
        length=settings.window_length,
        context=backbone.max_length,
        seed=settings.seed,
    )

    def start() -> Steps:
        (found,) = yield [Request(SublayerImportance(backbone, parts, windows, texts="plain"))]
        digest = digest_json([row.ids for row in windows])
        return {**found.to_json(), "windows": len(windows), "window_length": len(windows[0].ids), "digest": digest}

    return Work(start)
