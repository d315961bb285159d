"""``prune2vec profile``: model + texts -> profile.json."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from prune2vec.cli.options import TRIPLETS, OptionGroup, OutputPath, SourceName, SourceNames
from prune2vec.cli.verb import Outcome, check_model, check_texts, verb, would
from prune2vec.errors import CheckpointError

if TYPE_CHECKING:
    from prune2vec.profiling.profile_settings import ProfileSettings

OPTIONS = OptionGroup(
    "settings",
    "Measuring",
    "prune2vec.profiling.profile_settings:ProfileSettings",
    only_config=("scale rounds symmetric separator seed windows window_length token_budget"),
)
EXAMPLE = """
prune2vec profile smollm2 --texts triplets.jsonl -o profile.json
prune2vec profile Qwen/Qwen3-0.6B --texts triplets/ --sampling dataset --instruction e5
prune2vec profile meta-llama/Llama-3.1-70B --texts triplets/ --stream on --memory 16GB
prune2vec profile smollm2 --texts triplets.jsonl --scorers redundancy,redundancy-plain --plain book.txt
"""


@verb(example=EXAMPLE, sections=[OPTIONS])
@click.argument("model", type=SourceName("model"))
@click.option("--texts", type=SourceNames("path"), required=True, help=TRIPLETS)
@click.option("-o", "--output", type=OutputPath(folder=False), default="profile.json", show_default=True, help="File to write.")
def profile(model: str, *, texts: tuple[str, ...], output: Path, settings: ProfileSettings, dry_run: bool) -> Outcome:
    """Measure what every depth of MODEL is worth, and with --scorers what its sub-layers add.

    MODEL is a language model, or an encoder made of one, which is read out as it is: `smollm2`, a hub id, a
    folder or a GGUF file (converted once and kept). A picture of the curve is written beside the profile, and one of
    the redundancy where it was measured.
    """
    from prune2vec.profiling.measure import profile_model, scorer_names

    if output.suffix == ".svg":
        raise click.UsageError(
            f"{output} is the name of the picture; give -o a name for the profile, such as {output.stem}.json"
        )

    stem = output.with_name(output.name.removesuffix(".json"))
    curve_file, redundancy_file = (stem.with_name(f"{stem.name}{ending}") for ending in (".svg", ".redundancy.svg"))
    if not output.exists() and (there := [str(path) for path in (curve_file, redundancy_file) if path.exists()]):
        raise CheckpointError(
            f"cannot write {there[0]}, the picture of {output}: it is there; move it away, or give another -o"
        )
    if dry_run:
        check_model(model)
        check_texts(texts)
        scorer_names(settings)
        return would(f"profile {model}", reads=[model, *texts], writes=output, settings=settings)
    from prune2vec.experiments.plots import profile_svg, redundancies, redundancy_svg, redundancy_table, sparkline
    from prune2vec.files import write_text
    from prune2vec.machine import keep_freed_memory
    from prune2vec.planning.planner import make_plan

    keep_freed_memory()
    result = profile_model(model, texts, settings=settings, output=output)
    # The depths that L3Prune would keep, as far as the curve goes; a model of one layer has none to choose.
    layers = result.shape.num_layers
    names = [name for name, last in (("small", layers // 2), ("large", layers)) if layers > 1 and last <= result.depths]
    picks = {name: len(make_plan(result, method="l3prune", variant=name).keep_layers) for name in names}
    pictures = {curve_file: profile_svg(result, picks)}
    if redundancies(result):
        pictures[redundancy_file] = redundancy_svg(result)
    for path, svg in pictures.items():
        write_text(path, svg)
    curve, last = result.layer_loss, "full" if result.depths == layers else "end"
    lines = [f"layer loss, depth 1 to {result.depths}: {sparkline(curve.loss)}"]
    lines += [
        f"{name:<6} depth {depth:>3}   loss {curve.loss[depth - 1]:.4f} ± {curve.std_error[depth - 1]:.4f}"
        f"   accuracy@1 {curve.accuracy[depth - 1]:.3f}"
        for name, depth in {**picks, last: result.depths}.items()
    ]
    text = "\n".join([*lines, *redundancy_table(result), *map(str, [output, *pictures])])
    return Outcome(text, {"output": str(output), "picks": picks, **result.to_json()})
