"""The libraries around us: kept quiet, so that stderr holds our progress and nothing else, and their versions."""

from __future__ import annotations

import logging
import os
import platform
import re
import sys
import warnings
from importlib.metadata import PackageNotFoundError, requires, version

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
_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*])?\s*(?P<range>[^;]*)(?:;.*extra == .(?P<extra>\w+).)?")


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


def versions() -> str:
    """Return one line a package that prune2vec needs: its version, or that it is not there, and the range that was tested."""
    system = f"{platform.system()} {platform.machine()}"
    lines = [f"prune2vec {version('prune2vec')}", f"python {platform.python_version()} ({system})"]
    for line in requires("prune2vec") or ():
        found = _REQUIREMENT.match(line)
        assert found is not None
        name, wanted, extra = found["name"], found["range"].strip(), found["extra"]
        if extra in ("all", "dev"):
            continue
        try:
            there = version(name)
        except PackageNotFoundError:
            there = f"not installed; pip install 'prune2vec{f'[{extra}]' if extra else ''}'"
        lines.append(f"{name} {there} (tested: {wanted})")
    return "\n".join(lines)
