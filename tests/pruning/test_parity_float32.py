"""Half-precision weights, fp32 arithmetic: the same as the converted model, and the weights are put back."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from prune2vec.models.families import block_list, find_family
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.parity import PROBE_TEXTS, computing_in_float32
from prune2vec.pruning.prune import prune_model
from tests.pruning.plans import plan_for
from tests.tiny import FAMILIES, tiny_model, tiny_tokenizer


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", FAMILIES)
def test_equals_the_converted_model(family: str, dtype: torch.dtype) -> None:
    model = tiny_model(family).to(dtype).eval()
    ids = torch.tensor([[5, 9, 5, 40, 7, 3], [8, 8, 2, 1, 1, 1]])
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.inference_mode(), computing_in_float32(model):
        found = model(input_ids=ids, use_cache=False)[0]
    assert {name: tensor.dtype for name, tensor in model.state_dict().items()} == {n: t.dtype for n, t in before.items()}
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    with torch.inference_mode():
        expected = model.float()(input_ids=ids, use_cache=False)[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_one_block_is_in_fp32_at_a_time() -> None:
    model = tiny_model("llama").bfloat16().eval()
    blocks = list(block_list(model, find_family(model, model.config)))
    seen = []

    def count(*_: object) -> None:
        converted = [block for block in blocks if next(block.parameters()).dtype == torch.float32]
        seen.append((len(converted), model.get_input_embeddings().weight.dtype))

    for block in blocks:
        block.self_attn.register_forward_hook(count)
    with torch.inference_mode(), computing_in_float32(model):
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
    assert seen == [(1, torch.bfloat16)] * len(blocks)


def test_weights_are_put_back_after_an_error() -> None:
    model = tiny_model("llama").bfloat16().eval()
    blocks = list(block_list(model, find_family(model, model.config)))

    def fail(*_: object) -> None:
        raise KeyError("in the middle")

    blocks[1].mlp.register_forward_hook(fail)
    with pytest.raises(KeyError, match="in the middle"), computing_in_float32(model):
        model(input_ids=torch.tensor([[1, 2, 3]]), use_cache=False)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert model.get_input_embeddings().weight.shape[0] == model.config.vocab_size


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One folder for the models of the families."""
    yield tmp_path_factory.mktemp("stored")


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cut_of_a_half_precision_model_is_checked_in_fp32(stored: Path, family: str) -> None:
    model = stored / family
    tiny_model(family, causal_lm=True).bfloat16().save_pretrained(model)
    tiny_tokenizer().save_pretrained(model)
    out = prune_model(str(model), plan_for(model, range(3)), stored / f"{family}-cut", max_length=128)
    parity = json.loads((out / "parity.json").read_text())
    assert (parity["dtype"], parity["max_difference"] <= 1e-6) == ("float32", True)
    assert {tensor.dtype for tensor in load_file(out / "model.safetensors").values()} == {torch.bfloat16}
    # Gemma's embedding scale is rounded as a model is built in bfloat16, so an encoder loaded in float32 differs a little.
    halves, whole = (load_encoder(out, device="cpu", dtype="bfloat16") for _ in range(2))
    with computing_in_float32(halves[0].auto_model):
        found = halves.encode(list(PROBE_TEXTS), batch_size=3)
    np.testing.assert_allclose(found, whole.float().encode(list(PROBE_TEXTS), batch_size=3), atol=1e-6, rtol=0)
