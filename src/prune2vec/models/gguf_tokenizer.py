"""The tokeniser that a GGUF file describes, checked against what the file says of it."""

from __future__ import annotations

from typing import Any

from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.integrations.gguf.gguf_tokenizer_mapping import (
    GGUF_PRE_TOKENIZER_SPLITS,
    GGUF_TOKENIZER_MAPPING,
    convert_gguf_tokenizer,
)

from prune2vec.errors import ModelError, explained
from prune2vec.models.gguf_file import GGUFFile
from prune2vec.models.tokens import without_added

# Text that a tokeniser must give back unchanged.
_ROUND_TRIPS = ("Hello, world!", "a  b   c", "in  2024,   365 days", "naïve café — 東京\n\tdef f(x):\n        return 42")
# GGUF keeps only the name of how text is split. These two groups are as llama.cpp splits them; transformers knows others.
_LIKE_GPT2 = ("gpt-2", "phi-2", "olmo", "mpt", "jais")
_SINGLE_DIGITS = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
# llama.cpp takes whole words from the vocabulary before it merges, and adds BOS unless told otherwise.
_WHOLE_WORDS = ("llama3", "llama-v3", "llama-bpe", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2", "tekken")
# Qwen's tokenisers compose characters first; the file does not say it.
_COMPOSED = ("qwen2", "qwen35")
# Keys that are understood, beside ids of single tokens, which change nothing.
_KEYS = (*GGUF_TOKENIZER_MAPPING["tokenizer"], *GGUF_TOKENIZER_MAPPING["tokenizer_config"], "ggml.token_type_count")
_ROLES = {"bos": "bos", "eos": "eos", "unk": "unknown", "pad": "padding"}
# Where splits differ: contractions in both cases, capitals within words, digits, blanks and line breaks, combining marks.
_TELLING = (
    "I've THEY'RE 'tis he'S re'd Don'T", "HTTPServer McDonald iPhone x2 PDFs", "1 22 333 4444 55555 3.14 1,000 ²½٣", "  a   b\t c",
    "a\n\n b \r\n\r\n\tc\n  d  \n", "a/b //c\n/d ...\n!!\n\n(e) [f] _g_ #h", "हिन्दी กำลัง cafe\u0301 東京タワー 한국어 🙂👍🏽",
)  # fmt: skip
_OFF = ("ggml.add_sep_token", "ggml.remove_extra_whitespaces", "ggml.normalizer.lowercase")


def tokenizer_of(file: GGUFFile, rows: int) -> tuple[PreTrainedTokenizerFast, list[str]]:
    """Return the tokeniser of a file whose token embeddings have ``rows`` rows, and what had to be restored in it.

    Raises:
        ModelError: What the file says of its tokeniser is not understood, or the tokeniser made of it does otherwise.
    """
    said = {key.removeprefix("tokenizer."): value for key, value in file.metadata.items() if key.startswith("tokenizer.")}
    _check_keys(file, said)
    tokens = said["ggml.tokens"]
    if len(tokens) > rows:
        raise ModelError(
            f"{file.path.name}: its tokeniser has {len(tokens)} tokens, its embeddings {rows} rows; convert it again"
        )
    backend, repairs = _backend(file, said)
    special: dict[str, str | None] = {}
    for role, key in _ROLES.items():
        number = said.get(f"ggml.{key}_token_id")
        if number is not None and not (isinstance(number, int) and 0 <= number < len(tokens)):
            raise ModelError(
                f"{file.path.name}: tokenizer.ggml.{key}_token_id is {number!r}, expected one of {len(tokens)} tokens"
            )
        special[f"{role}_token"] = None if number is None else str(tokens[number])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        **{**special, "pad_token": special["pad_token"] or special["eos_token"]},
        chat_template=said.get("chat_template"),
        model_max_length=int(file.metadata[f"{file.architecture}.context_length"]),
        padding_side="right",
    )
    if len(tokenizer) > rows:
        raise ModelError(f"{file.path.name}: its tokeniser makes {len(tokenizer)} tokens, its embeddings have {rows} rows")
    _frame(tokenizer, file, said)
    _check(tokenizer, file, said)
    return tokenizer, [*repairs, "model_max_length and padding side set"]


def split_name(backend: Tokenizer) -> str | None:
    """Return the name by which files tell how a byte-level tokeniser splits text; None where no known one does the same."""
    if backend.pre_tokenizer is None:
        return None
    pieces = [[piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str(text)] for text in _TELLING]
    for name in (*GGUF_PRE_TOKENIZER_SPLITS, *_SINGLE_DIGITS, *_LIKE_GPT2):
        split = _split(name)
        same = pieces == [[piece for piece, _ in split.pre_tokenize_str(text)] for text in _TELLING]
        if same and (name in _WHOLE_WORDS) == bool(backend.model.ignore_merges):
            return name
    return None


def _split(name: str) -> pre_tokenizers.PreTokenizer:
    """Return what a name stands for in llama.cpp."""
    if name in _SINGLE_DIGITS or name in _LIKE_GPT2:
        words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        digits = [pre_tokenizers.Digits(individual_digits=True)] if name in _SINGLE_DIGITS else []
        return pre_tokenizers.Sequence([*digits, words])
    split = pre_tokenizers.Split(Regex(GGUF_PRE_TOKENIZER_SPLITS[name]), behavior="isolated")
    return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def _check_keys(file: GGUFFile, said: dict[str, Any]) -> None:
    for key, value in said.items():
        known = key in _KEYS or key.startswith("chat_template") or key == "huggingface.json"
        if not known and not key.endswith(("_token_id", "_token_ids")) and not (key in _OFF and not value):
            raise ModelError(
                f"{file.path.name}: metadata key tokenizer.{key} is {value!r:.60}, which prune2vec does not carry over; "
                "give the original model folder"
            )
    tokens = said.get("ggml.tokens")
    if not isinstance(tokens, list) or not tokens or not all(isinstance(token, str) for token in tokens):
        raise ModelError(f"{file.path.name}: it holds no tokeniser (tokenizer.ggml.tokens); give the original model folder")


def _backend(file: GGUFFile, said: dict[str, Any]) -> tuple[Tokenizer, list[str]]:
    """Return the tokeniser as transformers builds it, with what llama.cpp knows by the name of the split restored."""
    pre, repairs = said.get("ggml.pre"), []
    byte_level = said.get("ggml.model") == "gpt2"
    known = (*GGUF_PRE_TOKENIZER_SPLITS, *_LIKE_GPT2, *_SINGLE_DIGITS) if byte_level else (None, "default")
    if pre not in known:
        raise ModelError(
            f"{file.path.name}: tokenizer.ggml.model is {said.get('ggml.model')!r} and tokenizer.ggml.pre {pre!r}, a way of "
            "splitting text that prune2vec does not know; give the original model folder"
        )
    wanted = {name: said[key] for key, name in GGUF_TOKENIZER_MAPPING["tokenizer"].items() if key in said}
    with explained(ModelError, f"{file.path.name}: no tokeniser can be made of its metadata"):
        backend, _ = convert_gguf_tokenizer(file.architecture, wanted)
        # transformers' classes add tokens to every vocabulary (<|endoftext|>), whose ids have no row.
        backend = without_added(backend, lambda number: number < len(said["ggml.tokens"]))
    if pre in _SINGLE_DIGITS:
        backend.pre_tokenizer = _split(pre)
        repairs.append("single-digit split restored")
    if pre in _WHOLE_WORDS:
        backend.model.ignore_merges = True
        repairs.append("whole words before merges")
    if pre in _COMPOSED:
        backend.normalizer = normalizers.NFC()
        repairs.append("characters composed (NFC)")
    return backend, repairs


def _frame(tokenizer: PreTrainedTokenizerFast, file: GGUFFile, said: dict[str, Any]) -> None:
    """Make the tokeniser add BOS and EOS as the file says, or as llama.cpp does where it says nothing."""
    adds = {
        "bos": said.get("ggml.add_bos_token", said.get("ggml.model") == "llama" or said.get("ggml.pre") in _WHOLE_WORDS),
        "eos": said.get("ggml.add_eos_token", False),
    }
    for role, added in adds.items():
        if added and getattr(tokenizer, f"{role}_token_id") is None:
            raise ModelError(f"{file.path.name}: tokenizer.ggml.add_{role}_token is true, but it names no {role} token")
    first, last = ([getattr(tokenizer, f"{role}_token_id")] if adds[role] else [] for role in adds)
    if _ids(tokenizer, "text", framed=True) == first + _ids(tokenizer, "text") + last:
        return
    begin, end = ([str(getattr(tokenizer, f"{role}_token"))] if adds[role] else [] for role in adds)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=[*(f"{token}:0" for token in begin), "$A:0", *(f"{token}:0" for token in end)],
        pair=[*(f"{token}:{n}" for n, mark in ((0, "A"), (1, "B")) for token in (*begin, f"${mark}", *end))],
        special_tokens=[(token, number) for token, number in zip(begin + end, first + last, strict=True)],
    )


def _ids(tokenizer: PreTrainedTokenizerFast, text: str, *, framed: bool = False) -> list[int]:
    return list(tokenizer(text, add_special_tokens=framed)["input_ids"])


def _check(tokenizer: PreTrainedTokenizerFast, file: GGUFFile, said: dict[str, Any]) -> None:
    for text in _ROUND_TRIPS:
        back = str(tokenizer.decode(_ids(tokenizer, text), skip_special_tokens=True, clean_up_tokenization_spaces=False))
        if back.strip() != text.strip():
            raise ModelError(f"{file.path.name}: its tokeniser turns {text!r} into {back!r}; give the original model folder")
    for role, key in _ROLES.items():
        declared, found = said.get(f"ggml.{key}_token_id"), getattr(tokenizer, f"{role}_token_id")
        if declared is not None and found != declared:
            raise ModelError(f"{file.path.name}: {role} token is {found} after conversion, {declared} in the file")
    begins = str(tokenizer.convert_ids_to_tokens(_ids(tokenizer, "text"))[0]).startswith(("▁", "Ġ"))
    if begins != bool(said.get("ggml.add_space_prefix", said.get("ggml.model") == "llama")):
        raise ModelError(
            f"{file.path.name}: tokenizer.ggml.add_space_prefix is {not begins}, the converted tokeniser does {begins}; "
            "give the original model folder"
        )
