from __future__ import annotations

import pytest

from prune2vec.errors import ConfigError
from prune2vec.evaluation.evaluate_settings import EvaluateSettings


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"bach_size": 4}, "did you mean 'batch_size'"),
        ({"batch_size": 0}, "batch_size"),
        ({"instruction": "e5"}, "instruction"),
        ({"dtype": "fp8"}, "dtype"),
        ({"max-length": 0}, "max_length"),
    ],
)
def test_bad_settings_are_one_line(values: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        EvaluateSettings.build(values, where="evaluate")
    assert "\n" not in str(caught.value)
