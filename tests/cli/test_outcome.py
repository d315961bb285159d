"""What a verb prints."""

from __future__ import annotations

import json

from prune2vec.cli.outcome import Outcome

EVIL = "a\x1b[2J\x07\x9b\u202e\ud800\tb"


def test_no_control_character_is_printed_and_json_is_exact() -> None:
    outcome = Outcome(f"one {EVIL}\ntwo", {"text": EVIL})
    assert outcome.printed(as_json=False) == "one a\\x1b[2J\\x07\\x9b\\u202e\\ud800\tb\ntwo"
    text = outcome.printed(as_json=True)
    assert json.loads(text) == {"text": EVIL}
    assert text.replace("\n", "").isprintable()
