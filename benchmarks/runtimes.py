"""Do the frameworks that our users have compute an encoder's vectors? Folders of eight kinds, each framework in an environment of its own.

    python benchmarks/runtimes.py --work runs/runtimes --out benchmarks/results/runtimes.json
    python benchmarks/runtimes.py --work runs/runtimes --out ... --only haystack   # the others' results are kept

The encoders are tiny random models cut by prune. A query is encoded with the prompt as the framework's own documentation
does it (the line is in docs/serving.md), a document without; the largest difference from ``encode_query`` and
``encode_document`` of sentence-transformers here is told, or the framework's own error. Environments are made with venv and
pip in WORK, torch as it is here, all else as the index serves it that day.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_result

from prune2vec.experiments.comparison import TextTable
from prune2vec.files import read_json, write_json
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.tiny import save_tiny

QUERIES = ["how to cut a layer", "fox", "in 2024, 365 days"]
DOCUMENTS = ["The quick brown fox jumps over the lazy dog.", "a", "def add(a, b): return a + b"]
WORDS = [" ".join((QUERIES + DOCUMENTS)[(row + shift) % 6] for shift in range(2)) for row in range(64)]
SAME = 1e-5


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An encoder to try: the family that it is cut from, how, and what prune is told."""

    words: str
    family: str = "llama"
    plan: tuple[tuple[str, Any], ...] = (("method", "depth"), ("depth", 3))
    prune: tuple[tuple[str, Any], ...] = ()


KINDS = {
    "mean": Kind(words="mean", prune=(("pooling", "mean"),)),
    "mean-prompt": Kind(words="mean, instruction", prune=(("pooling", "mean"), ("instruction", "find"))),
    "last-prompt": Kind(words="lasttoken, instruction", prune=(("pooling", "lasttoken"), ("instruction", "find"))),
    "weightedmean": Kind(words="weightedmean", prune=(("pooling", "weightedmean"),)),
    "uneven": Kind(words="uneven blocks", plan=(("method", "drop"), ("drop", "2M")), prune=(("pooling", "mean"),)),
    "bidirectional": Kind(words="bidirectional decoder", prune=(("pooling", "mean"), ("attention", "bidirectional"))),
    "bert": Kind(words="BERT, cls", family="bert", prune=(("pooling", "cls"),)),
    "vocabulary": Kind(words="fewer tokens", prune=(("pooling", "mean"),)),
}


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """A framework: what is installed, the package whose version counts, and Python that defines ``encode``, as below."""

    packages: tuple[str, ...]
    version_of: str
    code: str


RUNTIMES = {
    "sentence-transformers 3": Runtime(
        packages=("sentence-transformers==3.3.1", "transformers==4.46.3"),
        version_of="sentence-transformers",
        code="""
        from sentence_transformers import SentenceTransformer

        def encode(folder, prompt, queries, documents):
            encoder = SentenceTransformer(folder, device="cpu")
            return encoder.encode(queries, prompt_name="query" if prompt else None), encoder.encode(documents)
        """,
    ),
    "sentence-transformers 5": Runtime(
        packages=("sentence-transformers==5.1.2", "transformers==4.57.1"),
        version_of="sentence-transformers",
        code="""
        from sentence_transformers import SentenceTransformer

        def encode(folder, prompt, queries, documents):
            encoder = SentenceTransformer(folder, device="cpu")
            return encoder.encode_query(queries), encoder.encode_document(documents)
        """,
    ),
    "LangChain": Runtime(
        packages=("langchain-huggingface", "sentence-transformers"),
        version_of="langchain-huggingface",
        code="""
        from langchain_huggingface import HuggingFaceEmbeddings

        def encode(folder, prompt, queries, documents):
            named = {"query_encode_kwargs": {"prompt_name": "query"}} if prompt else {}
            embeddings = HuggingFaceEmbeddings(model_name=folder, model_kwargs={"device": "cpu"}, **named)
            return [embeddings.embed_query(query) for query in queries], embeddings.embed_documents(documents)
        """,
    ),
    "LlamaIndex": Runtime(
        packages=("llama-index-embeddings-huggingface",),
        version_of="llama-index-embeddings-huggingface",
        code="""
        from llama_index.embeddings.huggingface import HuggingFaceEmbedding

        def encode(folder, prompt, queries, documents):
            embedding = HuggingFaceEmbedding(model_name=folder, device="cpu", query_instruction=prompt or None)
            found = [embedding.get_query_embedding(query) for query in queries]
            return found, embedding.get_text_embedding_batch(documents)
        """,
    ),
    "Haystack": Runtime(
        packages=("haystack-ai", "sentence-transformers-haystack"),
        version_of="haystack-ai",
        code="""
        from haystack import Document
        from haystack.utils import ComponentDevice
        from haystack_integrations.components.embedders.sentence_transformers import (
            SentenceTransformersDocumentEmbedder,
            SentenceTransformersTextEmbedder,
        )

        def encode(folder, prompt, queries, documents):
            cpu = ComponentDevice.from_str("cpu")
            named = {"encode_kwargs": {"prompt_name": "query"}} if prompt else {}
            text = SentenceTransformersTextEmbedder(model=folder, device=cpu, progress_bar=False, **named)
            document = SentenceTransformersDocumentEmbedder(model=folder, device=cpu, progress_bar=False)
            text.warm_up()
            document.warm_up()
            found = document.run([Document(content=one) for one in documents])["documents"]
            return [text.run(query)["embedding"] for query in queries], [one.embedding for one in found]
        """,
    ),
    "txtai": Runtime(
        packages=("txtai", "sentence-transformers"),
        version_of="txtai",
        code="""
        from txtai import Embeddings

        def encode(folder, prompt, queries, documents):
            embeddings = Embeddings(path=folder, method="sentence-transformers", gpu=False)
            found = [embeddings.transform(query, category="query") for query in queries]
            return found, [embeddings.transform(document, category="data") for document in documents]
        """,
    ),
    "Infinity": Runtime(
        packages=("infinity-emb[torch]", "sentence-transformers<5", "optimum<2", "transformers<4.49", "click<8.2"),
        version_of="infinity-emb",
        code="""
        import asyncio
        from infinity_emb import AsyncEmbeddingEngine, EngineArgs

        async def run(folder, texts):
            arguments = EngineArgs(model_name_or_path=folder, engine="torch", device="cpu", dtype="float32", bettertransformer=False)
            engine = AsyncEmbeddingEngine.from_args(arguments)
            async with engine:
                found, _ = await engine.embed(sentences=texts)
            return found

        def encode(folder, prompt, queries, documents):
            # It knows no prompts: the caller puts them before the text.
            found = asyncio.run(run(folder, [prompt + query for query in queries] + documents))
            return found[: len(queries)], found[len(queries) :]
        """,
    ),
}

WORKER = """
import importlib.metadata, json, sys
import numpy as np

{code}

given = json.loads(sys.argv[1])
told = {{}}
for name, folder in given["folders"].items():
    try:
        found = encode(folder["path"], folder["prompt"], given["queries"], given["documents"])
        told[name] = [np.asarray(part, dtype=np.float64).tolist() for part in found]
    except BaseException as error:
        told[name] = f"{{type(error).__name__}}: {{error}}"
packages = [given["version_of"], "transformers", "torch"]
print("@" + json.dumps({{"versions": {{name: importlib.metadata.version(name) for name in packages}}, "found": told}}))
"""


def make_folders(work: Path) -> dict[str, dict[str, Any]]:
    """Return each kind's folder, prompt and vectors (query and document), made where they are missing."""
    texts = work / "texts.jsonl"
    work.mkdir(parents=True, exist_ok=True)
    texts.write_text("".join(json.dumps({"anchor": one, "positive": one, "negative": one[::-1]}) + "\n" for one in WORDS))
    folders = {}
    for name, kind in KINDS.items():
        folder = work / "encoders" / name
        if not folder.exists():
            torch.manual_seed(0)
            model = save_tiny(work / "models" / kind.family, kind.family)
            profile = profile_model(
                str(model), texts, scorers=("layer-loss", "redundancy"), groups=2, group_size=8, dtype="float32"
            )
            tokens = {"vocabulary": {"vocabulary": "90%", "texts": str(texts)}} if name == "vocabulary" else {}
            plan = make_plan(profile, **dict(kind.plan), **tokens)
            prune_model(str(model), plan, folder, max_length=128, **dict(kind.prune))
        encoder = load_encoder(folder, device="cpu", dtype="float32")
        vectors = [encoder.encode_query(QUERIES), encoder.encode_document(DOCUMENTS)]
        folders[name] = {"path": str(folder), "prompt": encoder.prompts.get("query") or "", "vectors": vectors}
    return folders


def try_runtime(runtime: Runtime, folders: dict[str, dict[str, Any]], place: Path) -> dict[str, Any]:
    """Return versions, and by kind the largest difference of queries and documents, or the framework's error."""
    python = place / "bin" / "python"
    if not (place / "installed").exists():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, f"torch=={torch.__version__.partition('+')[0]}"], check=True)
        subprocess.run([*pip, *runtime.packages], check=True)
        (place / "installed").touch()
    given = {
        "folders": {name: {key: of[key] for key in ("path", "prompt")} for name, of in folders.items()},
        "queries": QUERIES,
        "documents": DOCUMENTS,
        "version_of": runtime.version_of,
    }
    code = WORKER.format(code=inspect.cleandoc(runtime.code))
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    ran = subprocess.run(
        [str(python), "-c", code, json.dumps(given)], env=environment, capture_output=True, text=True, check=False
    )
    lines = [line[1:] for line in ran.stdout.splitlines() if line.startswith("@")]
    if not lines:
        raise SystemExit(f"{runtime.version_of}: {ran.stderr[-2000:]}")
    told = json.loads(lines[-1])
    results: dict[str, Any] = {}
    for name, found in told["found"].items():
        if isinstance(found, str):
            results[name] = {"error": found.replace(str(place.parent), "WORK")}
            continue
        sides = zip(("queries", "documents"), found, folders[name]["vectors"], strict=True)
        results[name] = {side: float(np.abs(np.asarray(there) - np.asarray(here)).max()) for side, there, here in sides}
    return {"versions": told["versions"], "kinds": results}


def cell(result: dict[str, Any]) -> str:
    """Return how one kind fared, in a word or the differences."""
    if "error" in result:
        return "refused"
    words = {
        side: "same" if result[side] <= SAME else f"{side} differ by {result[side]:.2g}" for side in ("queries", "documents")
    }
    return "same" if set(words.values()) == {"same"} else ", ".join(word for word in words.values() if word != "same")


def main() -> None:
    """Try the frameworks, write the results, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for encoders and environments")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--only", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES), help="frameworks to try (anew)")
    given = parser.parse_args()
    given.work = given.work.resolve()
    folders = make_folders(given.work)
    results = read_json(given.work / "results.json") if (given.work / "results.json").exists() else {}
    for name in given.only:
        print(name, flush=True)
        results[name] = try_runtime(RUNTIMES[name], folders, given.work / name.replace(" ", "-"))
        write_json(given.work / "results.json", results)
    rows = tuple(
        (f"{name} ({of['versions'][RUNTIMES[name].version_of]})", *(cell(of["kinds"][kind]) for kind in KINDS))
        for name, of in results.items()
    )
    table = TextTable(("framework", *(kind.words for kind in KINDS.values())), rows)
    print(table.to_markdown())
    write_result(given.out, {"same_within": SAME, "runtimes": results, "table": {"header": table.header, "rows": table.rows}})


if __name__ == "__main__":
    main()
