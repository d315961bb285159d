"""Keeping other libraries quiet, so that stderr holds our progress and nothing else."""

from __future__ import annotations

import logging
import os
import sys
import warnings

_QUIET = {
    "DATASETS_VERBOSITY": "error",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
}
LOGGERS = ("accelerate", "bm25s", "datasets", "httpx", "huggingface_hub", "mteb", "peft", "sentence_transformers", "torch")
"""Their loggers speak only of errors."""


def prepare_environment() -> None:
    """Set what other libraries read when they are imported; call it before any of them is. The user's own settings win."""
    # Spinning OpenMP threads cost 5 to 14 times the run time as soon as anything else runs on the machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    for name in LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
