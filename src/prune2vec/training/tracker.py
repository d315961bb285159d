"""The tracker that a training reports to, asked for before work begins."""

from __future__ import annotations

from prune2vec.errors import ConfigError, reason_of


def check_tracker(name: str) -> None:
    """Make the tracker's callback as the trainer will, and drop it.

    Raises:
        ConfigError: transformers knows no tracker of that name, or its package is missing or does not start.
    """
    if name in ("none", "all"):
        return
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for callback in get_reporting_integration_callbacks([name]):
            callback()
    except Exception as error:  # Whatever a tracker's package raises: the run would end with it.
        raise ConfigError(f"report_to {name!r} cannot be used: {reason_of(error)}") from error
