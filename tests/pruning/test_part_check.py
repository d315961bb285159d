from dataclasses import replace

import pytest

from prune2vec.errors import UnsupportedModel
from prune2vec.models import sublayers
from prune2vec.models.block_layout import sub_layers_of
from prune2vec.models.cut import cut_model
from prune2vec.models.kept import Kept
from prune2vec.pruning.part_check import check_parts
from tests.models.silence import plan_of
from tests.tiny import FAMILIES, tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_known_families_pass_after_any_cut(family: str) -> None:
    model = tiny_model(family)
    kept = Kept.of(range(5), drop_mlp=[0, 2], drop_attention=[4])
    check_parts(cut_model(model, plan_of(model, kept, {1: tuple(range(7)), 3: tuple(range(9, 20))})))


def test_a_wrong_record_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """A norm that serves attention, recorded as the MLP's: dropping the MLP would change what attention sees."""
    model = tiny_model("llama")
    wrong = replace(sub_layers_of(model), mlp_norms=("input_layernorm", "post_attention_layernorm"))
    monkeypatch.setitem(sublayers._SUB_LAYERS, "llama", wrong)
    with pytest.raises(UnsupportedModel, match="without its MLP differs"):
        check_parts(cut_model(model, Kept.of(range(4), drop_mlp=[1])))
