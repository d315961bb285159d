"""What a profile with some settings would lack, so that a recipe can be refused before hours of measuring."""

from __future__ import annotations

from collections.abc import Iterable

from prune2vec.profiling.profile_settings import ALL, LAYER_LOSS, PLAIN, ProfileSettings


def missing_sections(profile: ProfileSettings, needed: Iterable[str]) -> tuple[str, ...]:
    """Return those of ``needed`` that a profile with these settings would not have."""

    def is_measured(name: str) -> bool:
        return name in profile.scorers or (ALL in profile.scorers and (name != PLAIN or profile.plain is not None))

    return tuple(name for name in dict.fromkeys(needed) if not is_measured(name))


def remedy(profile: ProfileSettings, missing: Iterable[str]) -> str:
    """Return, in words, the settings with which the profile has what is missing."""
    wanted = dict.fromkeys((LAYER_LOSS, *profile.scorers, *missing))
    plain = ", and profile.plain to a file or folder of running text" if PLAIN in wanted and profile.plain is None else ""
    return f"set profile.scorers: [{', '.join(wanted)}]{plain}"
