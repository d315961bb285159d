"""What ``--version --verbose`` prints: every package that prune2vec stands on, found without importing any."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version

_REQUIREMENT = re.compile(r"(?P<name>[\w.-]+)(?:\[[^]]*])?\s*(?P<range>[^;]*)(?:;.*extra == .(?P<extra>\w+).)?")
_NOT_OUR_OWN = ("all", "dev")


def versions() -> str:
    """Return one line a package: its version, or that it is not there, and the range that was tested."""
    system = f"{platform.system()} {platform.machine()}"
    return "\n".join([f"prune2vec {version('prune2vec')}", f"python {platform.python_version()} ({system})", *_packages()])


def _packages() -> Iterator[str]:
    for line in requires("prune2vec") or ():
        found = _REQUIREMENT.match(line)
        assert found is not None
        name, wanted, extra = found["name"], found["range"].strip(), found["extra"]
        if extra in _NOT_OUR_OWN:
            continue
        try:
            there = version(name)
        except PackageNotFoundError:
            there = f"not installed; pip install 'prune2vec{f'[{extra}]' if extra else ''}'"
        yield f"{name} {there} (tested: {wanted})"
