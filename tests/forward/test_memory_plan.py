from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune2vec.errors import ConfigError
from prune2vec.forward.memory_plan import plan_memory

SIZES = st.integers(1, 1000)


@given(st.integers(1, 10**7), SIZES, SIZES, SIZES, SIZES, SIZES, st.integers(1, 10**4), st.integers(64, 10**4))
def test_what_is_planned_fits(
    memory: int, in_use: int, block: int, per_token: int, state: int, longest: int, others: int, token_budget: int
) -> None:
    tokens = longest + others
    sizes = {"memory": memory, "in_use": in_use, "block": block, "per_token": per_token, "state": state, "longest": longest}
    least = in_use + block + per_token * longest
    if memory < least:
        with pytest.raises(ConfigError, match="one block and the longest text need"):
            plan_memory(**sizes, tokens=tokens, token_budget=token_budget)
        return
    room = plan_memory(**sizes, tokens=tokens, token_budget=token_budget)
    held = in_use + block * (2 if room.prefetch else 1) + per_token * room.token_budget
    assert held + state * tokens * room.states_in_memory <= memory
    assert longest <= room.token_budget <= max(token_budget, longest)


def test_with_plenty_nothing_is_spared() -> None:
    room = plan_memory(memory=10**9, in_use=0, block=1000, per_token=10, state=10, longest=50, tokens=1000, token_budget=8192)
    assert (room.prefetch, room.token_budget, room.states_in_memory) == (True, 8192, True)
