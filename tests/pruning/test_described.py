from prune2vec.pruning.described import describe_cut


def test_whole_blocks() -> None:
    assert describe_cut({"keep_layers": [0, 1], "num_layers": 5}) == ["2 of 5 layers"]


def test_every_kind_of_cut_has_its_line() -> None:
    record = {
        "keep_layers": [0, 1, 3, 4],
        "num_layers": 5,
        "drop_attention": [3],
        "drop_mlp": [0, 1],
        "widths": {"3": 20, "4": 24},
    }
    assert describe_cut(record) == [
        "4 of 5 layers",
        "without the attention of layer 3",
        "without the MLP of layers 0, 1",
        "20 to 24 neurons in the MLP of layers 3, 4",
    ]


def test_one_width() -> None:
    record = {"keep_layers": [0], "num_layers": 1, "widths": {"0": 7}}
    assert describe_cut(record)[1] == "7 neurons in the MLP of layer 0"
