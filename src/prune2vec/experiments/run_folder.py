"""The names of what a run writes into its folder, beside the folders of its variants."""

from __future__ import annotations

import re

RECIPE, PROFILE, ANSWERS, DATA, STAMPS = "recipe.yaml", "profile.json", "answers.json", "data", "stamps"
MANIFEST = "manifest.json"
REPORT = (MANIFEST, "profile.svg", "profile.png", "redundancy.svg", "report.md", "report.html")
PLAN, SLIM_PLAN, RESULTS = "plan.json", "slim-plan.json", "results.json"
CHECKPOINT, ENCODER = "checkpoint", "encoder"
_TAKEN = {RECIPE, PROFILE, ANSWERS, DATA, STAMPS, *REPORT, PLAN, SLIM_PLAN, RESULTS}
# Windows opens a device under these names, whatever comes after a dot, and drops a dot at the end.
_UNUSABLE = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.", re.IGNORECASE)
_LONGEST = 100


def wrong_folder_name(name: str) -> str | None:
    """Return why a variant's folder cannot have this name beside the run's own files; None where it can."""
    if name.lower() in _TAKEN:
        return "the run keeps its own files under that name; choose another"
    if _UNUSABLE.fullmatch(name):
        return "that is no name for a folder on every system; choose another"
    if len(name) > _LONGEST:
        return f"the name has {len(name)} characters; choose one of at most {_LONGEST}"
    return None
