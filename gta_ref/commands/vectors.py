"""gta-ref vectors: list the verification cases and write them to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import track

from gta_ref.commands.common import JsonOption, one_line_errors, table

app = typer.Typer(
    help="Write test vectors for implementations in any language.", no_args_is_help=True, rich_markup_mode=None
)

SuiteOption = Annotated[
    str,
    typer.Option(
        help="Which cases: core (attention, layer and lm together), attention (the attention core), layer (attention "
        "layers), lm (language models), large (a few large cases), or all."
    ),
]


@app.command()
@one_line_errors
def export(
    out: Annotated[Path, typer.Option(help="Folder for the files; one safetensors file is written per case.")],
    suite: SuiteOption = "core",
    dtype: Annotated[str, typer.Option(help="Type of the inputs: float64, float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Write the test vectors of a suite to files.

    A file holds the inputs of a case, every stage of its computation, the outputs, cotangents and gradients, and the
    budget of each array, which is the largest allowed error.
    """
    from gta_ref.verify import cases, vectors

    chosen = cases.suite(suite, dtype)
    out.mkdir(parents=True, exist_ok=True)
    console = Console()
    size = 0
    for case in track(chosen, "cases", console=console, transient=True):
        path = out / vectors.file_name(case)
        vectors.write(vectors.make(case.name, dtype), path)
        size += path.stat().st_size
    console.print(f"{len(chosen)} cases in {dtype}, {size / 1e6:.1f} MB, in {out}", highlight=False, markup=False)


@app.command("list")
@one_line_errors
def list_cases(suite: SuiteOption = "all", json: JsonOption = None) -> None:
    """List the cases with their tags and dtypes."""
    from gta_ref.files import write_json
    from gta_ref.verify import cases

    chosen = cases.suite(suite)
    rows = table("case", "tags", "dtypes")
    for case in chosen:
        rows.add_row(case.name, " ".join(case.tags), " ".join(case.dtypes))
    Console().print(rows)
    if json is not None:
        write_json(json, [{**vars(case), "settings": dict(case.settings)} for case in chosen])
