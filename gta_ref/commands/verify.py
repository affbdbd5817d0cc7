"""gta-ref verify: check an implementation, the files that one has written, or the verification kit itself."""

from __future__ import annotations

import faulthandler
import json as json_module
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from gta_ref.commands.common import JsonOption, one_line_errors


@one_line_errors
def verify(
    what: Annotated[
        list[str] | None,
        typer.Argument(
            help="Folder or file that an implementation has written (its dumps). Or: model CHECKPOINT DUMP, which "
            "compares the activations of a whole model with its checkpoint. Or: explain REPORT, which shows every "
            "array of one case (--case) from a report that was written with --json.",
            metavar="[DIR]",
        ),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(help="For dumps: folder that gta-ref vectors export has written. Default: the folder of dumps."),
    ] = None,
    impl: Annotated[str | None, typer.Option(help="A Python implementation to check, as package.module:name.")] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="For --impl, which cases: core (attention, layer and lm together), attention (the attention core), "
            "layer (attention layers), lm (language models), decode, tiles, layouts, large (a few large cases), or "
            "all. Default: core, or with --case all.",
        ),
    ] = None,
    case: Annotated[
        list[str] | None,
        typer.Option(help="A case, or a pattern such as 'layer/gta-*'; may be given several times. For explain, one."),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="For --impl, the type of the inputs: float64, float32, bfloat16 or float16, or several, separated by "
            "commas. Default: float32. For model, that of the program; default: that of its activations."
        ),
    ] = None,
    capabilities: Annotated[
        str | None,
        typer.Option(
            help="What the implementation supports, separated by commas: levels (attention, layer, lm), backward, "
            "decode, padding, lse, lse-gradient, deterministic, dtypes, mechanisms, features (docs/verify.md). Cases "
            "that need more are skipped. Default: everything."
        ),
    ] = None,
    without: Annotated[str | None, typer.Option(help="Capabilities that it lacks, separated by commas.")] = None,
    head_dim: Annotated[
        str | None,
        typer.Option(
            help="The widths of a head that it supports, separated by commas: 64,128, or 192x128 if those "
            "of keys and values differ. Other cases are skipped. Default: any."
        ),
    ] = None,
    arrays: Annotated[
        str, typer.Option(help="For --impl, the library of the arrays that it accepts: numpy, torch, jax, mlx or cupy.")
    ] = "numpy",
    products: Annotated[
        str | None,
        typer.Option(help="For --impl, a lower precision of its matrix products than float32: tf32."),
    ] = None,
    seed: Annotated[int, typer.Option(help="For --impl, draw fresh inputs. Default: 0, the standard inputs.")] = 0,
    repeat: Annotated[
        int | None,
        typer.Option(help="For --impl, how often to run each case; all must agree. Default: 2 if deterministic."),
    ] = None,
    isolate: Annotated[
        bool,
        typer.Option(
            "--isolate",
            help="Run --impl in a process of its own: an exit, a crash or a time-out is an error of a case.",
        ),
    ] = False,
    timeout: Annotated[
        float | None, typer.Option(help="With --isolate, the seconds that a case may take. Default: no limit.")
    ] = None,
    wanted: Annotated[
        str,
        typer.Option(help="For dumps, the arrays that they must contain: all, or required (outputs and gradients)."),
    ] = "all",
    prompt: Annotated[str | None, typer.Option(help="For model, a text in place of token ids.")] = None,
    export: Annotated[
        Path | None, typer.Option(help="For model, write the activations of this library to a file.")
    ] = None,
    traceback: Annotated[bool, typer.Option("--traceback", help="Print the whole traceback of each error.")] = False,
    summary: Annotated[bool, typer.Option("--summary", help="Print one line only, for a README or a badge.")] = False,
    self_test: Annotated[
        bool, typer.Option("--self-test", help="Check the kit itself with implementations known to be wrong or right.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Check an implementation and name the first wrong array.

    Exit status: 0 if all is right, 1 if something is wrong, 2 for wrong usage or if no case ran, 3 if only an array is
    missing.
    """
    from gta_ref.commands import verify_output as output

    console = output.console_beside(json)
    words = what or []
    if words[:1] == ["explain"]:
        _explain(console, words[1:], case)
        return
    if words[:1] == ["model"]:
        from gta_ref.commands import verify_model

        verify_model.run(console, words[1:], prompt, dtype, export, json)
        return
    if (len(words) == 1) + (impl is not None) + self_test != 1 or len(words) > 1:
        raise ValueError("verify needs one of: dumps, --impl package.module:name, model, --self-test")
    if self_test:
        _self_test(console, json)
        return
    from gta_ref.errors import check_choice
    from gta_ref.files import write_json
    from gta_ref.verify.cases import DTYPE
    from gta_ref.verify.dumps import WANTED, verify_dumps
    from gta_ref.verify.run import verify as run

    check_choice("wanted", wanted, WANTED)
    if impl is None:
        folder = Path(words[0])
        report = verify_dumps(
            folder, against or folder, wanted, capabilities=capabilities, without=without or (), head_dim=head_dim
        )
    else:
        if not faulthandler.is_enabled():
            faulthandler.enable(file=2)  # a crash of the implementation names its line
        with output.progress() as progress, output.prints_to_stderr():
            report = run(
                impl, suite, dtype or DTYPE, capabilities, arrays, progress, cases=case or None, without=without or (),
                head_dim=head_dim, products=products, seed=seed, repeat=repeat, isolate=isolate, timeout=timeout,
            )  # fmt: skip
    if summary:
        console.print(report.summary, highlight=False, soft_wrap=True)
    else:
        output.show(console, report, traceback)
    if json is not None:
        write_json(json, report.to_dict())
    if report.exit_status:
        raise typer.Exit(report.exit_status)


def _explain(console: Console, words: list[str], cases: list[str] | None) -> None:
    from gta_ref.commands.verify_output import explain

    if len(words) != 1 or cases is None or len(cases) != 1:
        raise ValueError("explain needs a report written by --json, and --case NAME")
    (case,) = cases
    try:
        content: Any = json_module.loads(Path(words[0]).read_text(encoding="utf-8"))
        results = [result for result in content["results"] if result["case"] == case]
        names = ", ".join(sorted({result["case"] for result in content["results"]}))
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{words[0]}: not a report written by gta-ref verify --json") from None
    if not results:
        raise ValueError(f"case={case!r} is not in {words[0]}; it has {names}")
    explain(console, results)


def _self_test(console: Console, json: Path | None) -> None:
    from gta_ref.commands import verify_output as output
    from gta_ref.files import write_json
    from gta_ref.verify.selftest import self_test

    with output.progress() as progress:
        found = self_test(progress)
    output.show_self_test(console, found)
    if json is not None:
        write_json(json, found)
    total = found["total"]
    enough = found["located"] >= 0.98 * total and found["recognised"] >= 0.95 * total
    if found["caught"] < total or not enough or found["false_alarms"] or found["false_causes"]:
        raise typer.Exit(1)
