from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def test_the_tests_that_the_matrix_runs_are_there() -> None:
    listed = re.search(r"^TESTS=\(\n(.*?)^\)", (ROOT / "scripts" / "matrix").read_text(), re.MULTILINE | re.DOTALL)
    assert listed is not None
    for name in listed[1].split():
        file, _, test = name.partition("::")
        assert f"def {test or 'test_'}" in (ROOT / file).read_text(), name
