from __future__ import annotations

import pytest

from prune2vec.planning.make_plan import make_plan
from tests.planning.made import made_profile


@pytest.mark.parametrize(("layers", "kept"), [(1, (5,)), (2, (0, 5)), (4, (0, 1, 2, 5)), (6, (0, 1, 2, 3, 4, 5))])
def test_the_deepest_go_but_the_last_stays(layers: int, kept: tuple[int, ...]) -> None:
    assert make_plan(made_profile([1.0] * 6), method="keep-last", layers=layers).keep_layers == kept
