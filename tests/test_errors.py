from __future__ import annotations

import inspect

import pytest

from prune2vec import errors
from prune2vec.errors import Prune2vecError, did_you_mean, nan_remedy, reason_of, unknown_key

CLASSES = [value for _, value in inspect.getmembers(errors, inspect.isclass) if value.__module__ == errors.__name__]


def test_every_error_is_a_prune2vec_error_and_says_what_it_is_for() -> None:
    assert len(CLASSES) > 8
    for error in CLASSES:
        assert issubclass(error, Prune2vecError)
        assert error.__doc__


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("smal", ("small", "large"), "; did you mean 'small'?"),
        ("zzz", ("small", "large"), "; known: large, small"),
        ("anything", (), ""),
        ("depht", {"depth": 1, "width": 2}, "; did you mean 'depth'?"),
    ],
)
def test_close_matches(name: str, known: tuple[str, ...], expected: str) -> None:
    assert did_you_mean(name, known) == expected


def test_a_generator_of_names_is_read_once() -> None:
    assert did_you_mean("zzz", (name for name in "ba")) == "; known: a, b"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (ValueError("the first line\nthe second"), "the first line"),
        (
            RuntimeError("\nError(s) in loading state_dict for X:\n\tsize mismatch for a\n"),
            "Error(s) in loading state_dict for X: size mismatch for a",
        ),
        (ValueError("One of: (1) a file,\n(2) another file or\n(3) nothing"), "One of: (1) a file, (2) another file or"),
        (ValueError("it needs:\n"), "it needs:"),
        (KeyError("rope_type"), "KeyError: 'rope_type'"),
        (ValueError(), "ValueError"),
        (KeyError(), "KeyError"),
    ],
)
def test_what_a_library_said_in_one_line(error: Exception, expected: str) -> None:
    assert reason_of(error) == expected


def test_a_key_that_has_another_name_now_is_told_where_that_one_is_known() -> None:
    assert unknown_key("profile.order", ["sampling", "seed"]) == "unknown key 'profile.order'; it is called 'sampling' now"
    assert unknown_key("order", ["seed"]) == "unknown key 'order'; known: seed"
    assert unknown_key("sede", ["sampling", "seed"]) == "unknown key 'sede'; did you mean 'seed'?"


@pytest.mark.parametrize(
    ("dtype", "said"), [("float32", "the weights are damaged"), ("torch.float32", "the weights are damaged")]
)
def test_no_dtype_is_advised_that_is_in_use(dtype: str, said: str) -> None:
    assert said in nan_remedy(dtype) and "dtype" not in nan_remedy(dtype)
    assert "--dtype float32" in nan_remedy(dtype.replace("float32", "bfloat16"))
