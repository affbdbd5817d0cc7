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
        help="Which cases: core (the default of verify), of these attention (the attention core), layer (attention "
        "layers) or lm (language models); decode, tiles or layouts (all cases of that kind), large, or all."
    ),
]


@app.command()
@one_line_errors
def export(
    out: Annotated[Path, typer.Option(help="Folder for the files; one safetensors file is written per case.")],
    suite: SuiteOption = "core",
    dtype: Annotated[
        str,
        typer.Option(
            help="Type of the inputs: float64, float32, bfloat16 or float16. Of several, separated by commas, each has "
            "a folder of its own below --out."
        ),
    ] = "float32",
) -> None:
    """Write the test vectors of a suite to files.

    A file holds the inputs of a case, every stage of its computation, the outputs, cotangents and gradients, and the
    budget of each array, which is the largest allowed error.
    """
    from gta_ref.verify import cases, vectors
    from gta_ref.verify.select import dtypes_of

    dtypes = dtypes_of(dtype)
    folders = {one: out / one if len(dtypes) > 1 else out for one in dtypes}
    chosen = {one: cases.suite(suite, one) for one in dtypes}
    for one, folder in folders.items():
        for case in chosen[one]:
            _check_dtype(folder / vectors.file_name(case), one)
    console = Console()
    for one, folder in folders.items():
        folder.mkdir(parents=True, exist_ok=True)
        size = 0
        for case in track(chosen[one], "cases", console=console, transient=True):
            path = folder / vectors.file_name(case)
            vectors.write(vectors.make(case.name, one), path)
            size += path.stat().st_size
        text = f"{len(chosen[one])} cases in {one}, {size / 1e6:.1f} MB, in {folder}"
        console.print(text, highlight=False, markup=False)


def _check_dtype(path: Path, dtype: str) -> None:
    """Raise ValueError if a file is there that holds the same case in another dtype."""
    from gta_ref.verify import vectors

    try:
        there = vectors.read(path).dtype
    except (ValueError, FileNotFoundError):  # not there, or damaged: it is written anew
        return
    if there != dtype:
        raise ValueError(f"{path} is in {there}; choose another --out for {dtype}, such as {path.parent / dtype}")


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
