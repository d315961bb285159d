from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from typing import Any

import pytest

from prune2vec.errors import ProfileError
from prune2vec.experiments.plots import caption, marked, redundancy_svg, redundancy_table
from prune2vec.profiling.profile import Profile
from tests.experiments.small import profile_of

LAYERS = 12


def section(texts: str = "retrieval", **rows: list[float]) -> dict[str, Any]:
    falling = [0.5 - 0.04 * layer for layer in range(LAYERS)]
    return {"attention": falling, "mlp": falling, "block": falling, "tokens": 1234, "texts": texts, **rows}


def measured(**sections: dict[str, Any]) -> Profile:
    return replace(profile_of(), sections={name.replace("_", "-"): one for name, one in sections.items()})


RETRIEVAL = measured(redundancy=section())
BOTH = measured(redundancy=section(), redundancy_plain=section("plain", mlp=section()["mlp"][::-1], block=[0.1] * LAYERS))


def cells(svg: str) -> int:
    """Count what the colour mesh draws; the bar has a mesh of its own."""
    mesh = re.search(r'<g id="QuadMesh_1">.*?</g>', svg, re.DOTALL)
    assert mesh is not None
    return mesh.group(0).count("<path") + mesh.group(0).count("<use")


def words(svg: str) -> list[str]:
    """Return the texts; matplotlib keeps them in comments beside their outlines."""
    return re.findall(r"<!-- (.*?) -->", svg)


def test_one_row_a_kind_and_one_cell_a_layer() -> None:
    svg = redundancy_svg(RETRIEVAL)
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert svg == redundancy_svg(RETRIEVAL)
    assert cells(svg) == 3 * LAYERS
    assert "<image" not in svg
    assert {"attention", "MLP", "block"} <= set(words(svg))


def test_both_kinds_of_text_stand_beside_each_other() -> None:
    svg = redundancy_svg(BOTH)
    assert cells(svg) == 6 * LAYERS
    rows = [word for word in words(svg) if word.endswith((", retrieval", ", plain"))]
    pairs = [f"{kind}, {texts}" for kind in ("attention", "MLP", "block") for texts in ("retrieval", "plain")]
    assert rows == pairs
    assert "MLP, plain" in words(redundancy_svg(measured(redundancy_plain=section("plain"))))


def test_the_least_important_are_numbered() -> None:
    values = [0.5] * LAYERS
    for rank, layer in enumerate((7, 2, 9, 4, 0, 11)):
        values[layer] = 0.01 * (rank + 1)
    svg = redundancy_svg(measured(redundancy=section(attention=values, mlp=values, block=values)))
    assert marked(LAYERS) == 6
    assert [marked(layers) for layers in (1, 2, 16, 80)] == [1, 1, 8, 8]
    # Ranks stand from left to right in the order of their layers, in each of the three rows.
    places = [(int(rank), float(x)) for rank, x in _RANK.findall(svg)]
    for row in range(3):
        where = dict(places[6 * row : 6 * row + 6])
        assert sorted(where, key=lambda rank: where[rank]) == [5, 2, 4, 1, 3, 6]


# What stands in a cell is smaller than the numbers of the axes.
_RANK = re.compile(r"<!-- (\d) -->\s*<g [^>]*translate\(([\d.]+) [\d.]+\) scale\(0\.075 ")


@pytest.mark.parametrize("value", [0.0, 0.25])
def test_a_flat_or_silent_model_is_drawn(value: float) -> None:
    flat = [value] * LAYERS
    assert cells(redundancy_svg(measured(redundancy=section(attention=flat, mlp=flat, block=flat)))) == 3 * LAYERS


def test_caption_and_table_say_how_far_the_texts_agree() -> None:
    told = caption(BOTH)
    assert "1,234 tokens of retrieval text and 1,234 tokens of plain text" in told
    assert told.endswith("Rank correlation of plain with retrieval text: attention 1.00, MLP -1.00, block undefined.")
    assert "correlation" not in caption(RETRIEVAL)
    table = redundancy_table(BOTH)
    assert table[1].split()[:5] == ["attention", "11", "(0.06)", "10", "(0.1)"]
    assert table[-1] == "rank correlation of plain with retrieval text: attention 1.00, MLP -1.00, block undefined"
    assert len(table) == 9
    assert len(redundancy_table(RETRIEVAL)) == 4
    assert redundancy_table(profile_of()) == []


def test_a_broken_section_is_refused() -> None:
    with pytest.raises(ProfileError, match="rows of different length"):
        redundancy_svg(measured(redundancy=section(mlp=[0.1])))
