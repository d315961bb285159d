"""``prune2vec export``: encoder -> folder for another runtime."""

from __future__ import annotations

from pathlib import Path

import click

from prune2vec.cli.options import ExistingPath, OutputPath
from prune2vec.cli.verb import Printable, verb, would

EXAMPLE = """
prune2vec export encoder/ --target vllm -o encoder-vllm/
prune2vec export encoder/ --target onnx -o encoder-onnx/
prune2vec export encoder/ --target onnx --precision int8 -o encoder-int8/
prune2vec export encoder/ --target gguf --precision q8_0 -o encoder-gguf/
"""


@verb(example=EXAMPLE, pushes=True)
@click.argument("encoder", type=ExistingPath())
@click.option("--target", required=True, help="The runtime: vllm, onnx or gguf.")
@click.option(
    "--precision",
    help="For onnx: fp32 (the default), fp16 or int8; for gguf: fp16 (the default) or q8_0. Compared with fp32 before it is kept.",
)
@click.option("-o", "--output", type=OutputPath(folder=True), required=True, help="Folder to write.")
def export(encoder: Path, *, target: str, precision: str | None, output: Path, dry_run: bool) -> Printable:
    """Write ENCODER in the form of another runtime.

    vllm: blocks without attention or MLP, and MLPs of different widths, of Llama-like encoders. Pooling mean, cls or lasttoken.

    onnx: one graph, pooling included, of any encoder, in a folder that sentence-transformers, transformers.js, fastembed and
    optimum load; run and compared before it is kept.

    gguf: one file for llama.cpp, of Llama-like, Qwen, Gemma and BERT encoders with equal blocks. Pooling mean, cls or lasttoken. Read back,
    and where llama.cpp's binding (xllamacpp) is installed run and compared, before it is kept.
    """
    if dry_run:
        from prune2vec.exporting.export import prepared
        from prune2vec.paths import check_is_encoder, check_outside

        check_is_encoder(encoder)
        check_outside(output, encoder)
        prepared(target, output, precision)
        return would(f"export {encoder} to {target}", reads=[encoder], writes=output)
    from prune2vec.exporting.export import export_encoder

    return export_encoder(encoder, target=target, output=output, precision=precision)
