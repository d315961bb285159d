"""Whether a folder is still the encoder that was written, what could go wrong with it elsewhere, and whether another one agrees."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from prune2vec.errors import CheckpointError, ConfigError, Prune2vecError, UnsupportedModel, shown
from prune2vec.exporting.other_vectors import (
    LEAST_COSINES,
    LEAST_SERVED,
    llama_cpp_vectors,
    longest_of,
    served_vectors,
    texts_and_vectors,
)
from prune2vec.files import read_json
from prune2vec.forward.batches import rope_entries
from prune2vec.models.selftest import is_causal
from prune2vec.models.tokens import prompt_ids
from prune2vec.outputs import RECORD as FILES
from prune2vec.outputs import changed_files, recorded
from prune2vec.paths import check_is_encoder
from prune2vec.pruning.encoder import (
    PROBE,
    ProbeRecord,
    encode_probe,
    load_encoder,
    parts_of,
    probe_tokens,
    read_record,
    told_settings,
)
from prune2vec.pruning.model_card import served_by
from prune2vec.pruning.parity import PROBE_TEXTS, compare_vectors, cosines, probe_prompts
from prune2vec.pruning.portable import EncoderParts, legacy_rope_entries
from prune2vec.public import public

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

OK, WRONG, TOLD = "ok", "WRONG", "-"
"""As it must be; not so; nothing to compare it with."""
_NOT_RECORDED = "not recorded"
_SETTINGS = {
    "pooling": ("pooling", "include_prompt", "heads", "normalize", "truncate_dim", "similarity"),
    "prompts": ("prompts", "default_prompt"),
    "texts": ("max_length", "lower_case"),
}
_ADAPTERS = ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin")
# A card may be edited, and the record cannot hold itself.
_FREE = ("README.md", FILES)
# The file types of GGUF whose matrices are in fp32, fp16 or bf16.
_WHOLE_AND_HALF = (0, 1, 32)
_WIDTH = 60
_SHORT = PROBE_TEXTS[:3]
_LONG = PROBE_TEXTS[-2]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One row: what was looked at, what was found, what was expected, and ``ok``, ``WRONG`` or ``-`` (nothing to compare with)."""

    what: str
    found: str
    expected: str = ""
    verdict: str = TOLD


@dataclass(frozen=True, kw_only=True)
class Examined:
    """What an examination has found."""

    folder: Path
    findings: tuple[Finding, ...]

    @property
    def failed(self) -> bool:
        """Whether something is wrong; the exit code says it."""
        return any(finding.verdict == WRONG for finding in self.findings)

    def render(self) -> str:
        """Return the table as text, and below it what is wrong in full."""
        rows = [("", "what", "found", "expected")]
        rows += [(row.verdict, row.what, shown(row.found, _WIDTH), shown(row.expected, _WIDTH)) for row in self.findings]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        # In full, what the table may have cut.
        wrong = [f"{row.what}: found {row.found}; expected {row.expected}" for row in self.findings if row.verdict == WRONG]
        told = [f"{row.what}: {row.found}" for row in self.findings if not row.expected and len(row.found) > _WIDTH]
        ending = f"{self.folder}: {f'{len(wrong)} wrong' if wrong else 'nothing wrong was found'}"
        return "\n".join([*lines, "", *told, *wrong, ending])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready dictionary."""
        return {"folder": str(self.folder), "failed": self.failed, "findings": [asdict(finding) for finding in self.findings]}


@public("doctor", "folder", "against")
def examine_encoder(folder: str | Path, *, against: str | Path | None = None) -> Examined:
    """Examine an encoder's folder: is it what was written, how does it make vectors, and who computes them.

    Args:
        folder: A folder written by ``prune`` or ``train``, or another sentence-transformers folder, of which less is known.
        against: Another encoder's folder, an ONNX or GGUF export, or the URL of a server with OpenAI's interface
            (``http://localhost:8080/v1``), whose vectors of the same texts must agree.

    Raises:
        CheckpointError: ``folder``, or ``against``, is no encoder's folder.
        ConfigError: ``against`` is an export that cannot be run here.
        DataError: ``probe.json`` is damaged.
    """
    path = Path(folder)
    check_is_encoder(path)
    if not path.is_dir():
        raise CheckpointError(f"no folder at {path}; doctor examines what is on this machine: download the encoder first")
    probe = ProbeRecord.load(path / PROBE) if (path / PROBE).is_file() else None
    findings = list(_files(path))
    try:
        encoder = load_encoder(path, dtype=probe.dtype if probe else "float32")
        parts = parts_of(encoder, read_record(path))
        vectors = encode_probe(encoder, probe.texts if probe else PROBE_TEXTS)
    except Prune2vecError as error:
        findings.append(Finding(what="loads", found=str(error), expected="every tensor, and no other", verdict=WRONG))
        return Examined(folder=path, findings=tuple(findings))
    findings.append(Finding(what="loads", found="every tensor, and no other", verdict=OK))
    settings, wanted = told_settings(parts), probe.settings if probe else None
    for what, keys in _SETTINGS.items():
        now, then = (
            ", ".join(f"{key} {told[key]!r}" for key in keys) if told else _NOT_RECORDED for told in (settings, wanted)
        )
        findings.append(_compared(what, now, then))
    findings.append(_tokens(encoder, probe))
    if probe is None:
        finite = bool(np.isfinite(vectors).all())
        seen, verdict = ("finite", TOLD) if finite else ("NaN", WRONG)
        findings.append(Finding(what="vectors", found=seen, expected=_NOT_RECORDED, verdict=verdict))
    else:
        expected, about = f"as when it was written, in {probe.dtype}", {"named": "what was recorded", "dtype": probe.dtype}
        findings.append(_agreement("vectors", probe.vectors, vectors, expected=expected, **about))
    encoder.float()
    # First, as the look at halves rounds what the vectors in fp32 are made with.
    compared = list(_against(encoder, parts, str(against))) if against is not None else []
    findings += [*_read_elsewhere(path, parts), *_behaviour(encoder, path)]
    findings.append(Finding(what="served by", found=served_by(parts)))
    findings += compared
    return Examined(folder=path, findings=tuple(findings))


def _compared(what: str, found: str, expected: str) -> Finding:
    """Return a row whose two texts must be equal; where nothing is expected, nothing is judged."""
    known = expected != _NOT_RECORDED
    return Finding(what=what, found=found, expected=expected, verdict=TOLD if not known else OK if found == expected else WRONG)


def _files(folder: Path) -> Iterator[Finding]:
    written = recorded(folder)[1].keys() - set(_FREE)
    changed = [name for name in changed_files(folder, suffix="") if name not in _FREE]
    whole = f"all {len(written)} as they were written"
    if written:
        yield _compared("files", f"changed or missing: {', '.join(changed)}" if changed else whole, whole)
    else:
        yield Finding(what="files", found=f"no record of them ({FILES})", expected=_NOT_RECORDED)
    there = [name for name in _ADAPTERS if (folder / name).exists()]
    yield _compared("adapters", ", ".join(there) or "none beside the weights", "none beside the weights")


def _tokens(encoder: SentenceTransformer, probe: ProbeRecord | None) -> Finding:
    """Compare the tokens of texts, and show those of a short one, special tokens included."""
    texts = probe.texts if probe else PROBE_TEXTS
    rows = probe_tokens(encoder, texts)

    def form(row: Sequence[int]) -> str:
        return " ".join(encoder.tokenizer.convert_ids_to_tokens(list(row)))

    if probe is None:
        return Finding(what="tokens", found=f"{texts[0]!r}: {form(rows[0])}", expected=_NOT_RECORDED)
    place = next((place for place, (now, then) in enumerate(zip(rows, probe.tokens, strict=True)) if tuple(now) != then), 0)
    found, expected = (f"{texts[place]!r}: {form(row)}" for row in (rows[place], probe.tokens[place]))
    return _compared("tokens", found, expected)


def _agreement(
    what: str,
    reference: NDArray[np.float32],
    vectors: NDArray[np.float32],
    *,
    named: str,
    expected: str,
    dtype: str = "float32",
) -> Finding:
    try:
        parity = compare_vectors(reference, vectors, named=named, dtype=dtype)
    except CheckpointError as error:
        found = str(error).removesuffix("; nothing was kept").replace("the written encoder", "the encoder")
        return Finding(what=what, found=found, expected=expected, verdict=WRONG)
    found = f"largest difference {parity.max_difference:.2g}, smallest cosine {parity.min_cosine:.6f} ({parity.texts} texts)"
    return Finding(what=what, found=found, expected=expected, verdict=OK)


def _read_elsewhere(folder: Path, parts: EncoderParts) -> Iterator[Finding]:
    """Look at what some release or runtime takes otherwise without a word: sides, rotary entries, which tokens a token sees."""
    ours = bool(read_record(folder))
    sides = (parts.tokenizer.padding_side, parts.tokenizer.truncation_side)
    found, expected = (f"padded on the {pad}, cut on the {cut}" for pad, cut in (sides, ("right", "right")))
    yield _compared("sides", found, expected if ours else _NOT_RECORDED)
    what, told = "rotary entries", read_json(folder / "config.json")
    wanted = legacy_rope_entries(parts.model.config.to_dict())
    missing = [key for key, value in wanted.items() if told.get(key) != value]
    missing += [] if told.get("rope_parameters") else ["rope_parameters"]
    names = ", ".join(["rope_parameters", *wanted])
    if not wanted and not rope_entries(parts.model.config):
        yield Finding(what=what, found="none, and the model needs none")
    elif ours:
        yield _compared(what, f"missing or other: {', '.join(missing)}" if missing else names, names)
    else:
        yield Finding(what=what, found=", ".join(key for key in wanted if key in told), expected=_NOT_RECORDED)
    expected = str(parts.record.get("attention") or _NOT_RECORDED)
    try:
        yield _compared("attention", "causal" if is_causal(parts.model) else "bidirectional", expected)
    except UnsupportedModel as error:
        yield Finding(what="attention", found=str(error), expected=expected, verdict=WRONG)


def _behaviour(encoder: SentenceTransformer, folder: Path) -> Iterator[Finding]:
    """Encode short texts alone, beside a long one, and in the dtype in which the weights are stored."""

    def encode(texts: Sequence[str]) -> NDArray[np.float32]:
        found = encoder.encode(list(texts), convert_to_tensor=True, show_progress_bar=False, batch_size=len(texts))
        return found.float().cpu().numpy()

    alone = np.concatenate([encode([text]) for text in _SHORT])
    beside = np.concatenate([encode([text, _LONG])[:1] for text in _SHORT])
    yield _agreement("neighbours", alone, beside, named="a text alone", expected="as without a longer text in the batch")
    tokenizer: Any = encoder.tokenizer
    side = tokenizer.padding_side
    tokenizer.padding_side = "left" if side == "right" else "right"
    other = np.concatenate([encode([text, _LONG])[:1] for text in _SHORT])
    tokenizer.padding_side = side
    difference = float(np.abs(other - alone).max())
    yield Finding(what=f"padded {'left' if side == 'right' else 'right'}", found=f"vectors differ by {difference:.2g} at most")
    stored = str(read_json(folder / "config.json").get("dtype") or "float32")
    if stored in ("bfloat16", "float16"):
        encoder.to(getattr(torch, stored))
        low = encode(_SHORT)
        encoder.float()
        found = f"smallest cosine to float32 {cosines(alone, low).min():.4f}" if np.isfinite(low).all() else "NaN"
        yield Finding(what=f"in {stored}", found=found, expected="no NaN", verdict=OK if np.isfinite(low).all() else WRONG)


def _against(encoder: SentenceTransformer, parts: EncoderParts, other: str) -> Iterator[Finding]:
    """Compare the vectors of the probe texts, under the encoder's own prompts, with another's."""
    path = Path(other)
    about = _export_record(path / "export.json") if (path / "export.json").is_file() else {}
    if _is_url(other) or path.suffix == ".gguf" or about.get("target") == "gguf":
        try:
            yield _against_runtime(encoder, parts, str(path / about["model"]) if about else other)
        except Prune2vecError as error:  # Told beside all that was found about the folder itself.
            yield Finding(what="against", found=str(error), expected="vectors to compare with", verdict=WRONG)
        return
    prompts = probe_prompts(parts.prompts)
    reference = encode_probe(encoder)
    low, named = "fp32", path.name
    if not about:
        theirs = load_encoder(path, dtype="float32")
        yield _compared(f"prompts of {named}", str(dict(theirs.prompts)), str(dict(encoder.prompts)))
        vectors = encode_probe(theirs, prompts=prompts)
    elif about.get("target") == "onnx":
        from prune2vec.exporting.onnx_graph import OnnxEncoder

        low, graph = about.get("precision", "fp32"), OnnxEncoder(path, max_length=about["max_length"])
        told = {name: prompt["text"] for name, prompt in about["prompts"].items() if prompt["text"]}
        yield _compared(f"prompts of {named}", str(told), str({name: text for name, text in parts.prompts.items() if text}))
        counts = {prompt: min(parts.max_length, len(prompt_ids(parts.tokenizer, prompt))) for prompt in prompts}
        vectors = np.concatenate(
            [graph.encode(PROBE_TEXTS, prompt=prompt, prompt_tokens=counts[prompt], batch_size=1) for prompt in prompts]
        )
    else:
        raise ConfigError(
            f"{other} is an export to {about.get('target')}, which cannot be run here; name an encoder, one to onnx or gguf, or the URL "
            "of a server with OpenAI's interface"
        )
    what = f"vectors of {named}"
    if low == "fp32" or reference.shape != vectors.shape:
        yield _agreement(what, reference, vectors, named="the folder", expected="the same vectors")
        return
    # Of an export in fewer bits the mean cosine alone is judged.
    from prune2vec.exporting.onnx_precision import LEAST_COSINE

    cosine = cosines(reference, vectors)
    found, expected = f"mean cosine {cosine.mean():.4f}, smallest {cosine.min():.4f}", f"{LEAST_COSINE} on average ({low})"
    yield Finding(what=what, found=found, expected=expected, verdict=OK if cosine.mean() >= LEAST_COSINE else WRONG)


def _export_record(file: Path) -> dict[str, Any]:
    """Return what an export says of itself; one that lacks what is read here is a ``CheckpointError``."""
    value = read_json(file)
    needs: dict[str, dict[str, type]] = {"onnx": {"max_length": int, "prompts": dict}, "gguf": {"model": str}}
    wanted = needs.get(str(value.get("target")), {}) if isinstance(value, dict) else {"target": str}
    broken = [key for key, kind in wanted.items() if not (isinstance(value, dict) and isinstance(value.get(key), kind))]
    if broken:
        raise CheckpointError(
            f"{file}: broken record of an export ({broken[0]} is missing); make it again with prune2vec export"
        )
    return dict(value)


def _is_url(name: str) -> bool:
    return name.startswith(("http://", "https://"))


def _against_runtime(encoder: SentenceTransformer, parts: EncoderParts, other: str) -> Finding:
    """Compare with a GGUF file that llama.cpp runs, or with a server: prompts stand before texts, and are pooled there."""
    texts, reference = texts_and_vectors(encoder, parts)
    if _is_url(other):
        (named, vectors), least = served_vectors(other.rstrip("/"), texts), LEAST_SERVED
    else:
        from prune2vec.models.gguf_file import GGUFFile

        half = GGUFFile.open(Path(other)).metadata.get("general.file_type") in _WHOLE_AND_HALF
        named, least = Path(other).name, LEAST_COSINES["fp16" if half else "q8_0"]
        vectors = llama_cpp_vectors(Path(other), texts, tokens=longest_of(parts, texts))
    what, expected = f"vectors of {named}", f"a cosine of {least} at least"
    if vectors.shape != reference.shape:
        found = f"of shape {vectors.shape}, the folder's of {reference.shape}"
        return Finding(what=what, found=found, expected=expected, verdict=WRONG)
    distance = 1 - cosines(reference, vectors)
    words = "; prompts are left out here and pooled there, so texts stood alone" if parts.leaves_out_prompts else ""
    found = f"largest cosine distance {distance.max():.2g} ({len(texts)} texts{words})"
    return Finding(what=what, found=found, expected=expected, verdict=OK if 1 - distance.max() >= least else WRONG)
