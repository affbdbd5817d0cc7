"""The command gta-ref. Exit status: 0 all well, 1 a check failed, 2 wrong usage."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

app = typer.Typer(
    help="GTA, Grouped-head latenT Attention (arXiv 2506.17286): the reference implementation.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

JsonOption = Annotated[Path | None, typer.Option("--json", help="Also write all figures to this file.")]


def one_line_errors(command: Callable[..., None]) -> Callable[..., None]:
    """Turn an expected error into one line on stderr and exit status 2."""

    @wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except (ValueError, OSError) as error:
            # an OSError's own text has an errno in front
            message = f"{error.filename}: {error.strerror}" if isinstance(error, OSError) and error.strerror else error
            print(f"gta-ref: {message}", file=sys.stderr)
            raise typer.Exit(2) from None

    return wrapped


@app.callback()
def options() -> None:
    """GTA, Grouped-head latenT Attention (arXiv 2506.17286): the reference implementation."""


@app.command()
@one_line_errors
def tour(
    text: Annotated[Path | None, typer.Option(help="Text that the layer reads. Default: Python's own source.")] = None,
    out: Annotated[Path, typer.Option(help="Folder for the figures and tour.json.")] = Path("gta-tour"),
    seed: Annotated[int, typer.Option(help="Seed of the random weights.", min=0)] = 0,
    json: JsonOption = None,
) -> None:
    """Run a GTA-1B-sized attention layer on real text and check every claim on the way."""
    from gta_ref import tour as steps
    from gta_ref.files import write_json

    source, content = (str(text), text.read_bytes()) if text is not None else steps.default_text()
    console = Console()
    bar = Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    )
    figures: dict[str, Any] = {"text": source, "seed": seed, "weights": "random"}
    with bar:
        task = bar.add_task("random weights", total=len(steps.STEPS) + 2)
        run = steps.start(source, content, seed)
        _introduce(console, run)
        bar.advance(task)
        for name, step in steps.STEPS.items():
            bar.update(task, description=name.replace("_", " "))
            result = step(run)
            if name == "stages":
                figures["stages"], maps = result
            else:
                figures[name] = result
            _SHOW[name](console, figures[name])
            bar.advance(task)
        bar.update(task, description="figures")
        paths = steps.write(run, maps, figures, out)
        if json is not None:
            write_json(json, figures)
        bar.advance(task)
    console.print(f"\nWritten to [bold]{escape(str(out))}[/]: {', '.join(path.name for path in paths)}")
    failed = [name for name, found in figures.items() if isinstance(found, dict) and found.get("holds") is False]
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}[/]")
        raise typer.Exit(1)


@app.command()
@one_line_errors
def doctor(json: JsonOption = None) -> None:
    """Say what is installed, which engines can run here, and why the others cannot."""
    from gta_ref import doctor as facts
    from gta_ref.files import write_json

    found = facts.examine()
    console = Console()
    console.print(
        f"gta_ref {found['gta_ref']}, Python {found['python']}, {found['platform']}, {found['cores']} cores",
        highlight=False,
    )
    for blas in found["blas"]:
        console.print(
            f"BLAS: {blas['internal_api']} {blas['version']}, kernel {blas['architecture']}, "
            f"{blas['num_threads']} threads",
            highlight=False,
        )
    packages = _table("package", "version", "for")
    for name, purpose in {**facts.REQUIRED, **facts.OPTIONAL}.items():
        version = found["packages"][name]
        packages.add_row(name, version or "[dim]not installed[/]", purpose)
    console.print(packages)
    engines = _table("engine", "can run here")
    for name, reason in found["engines"].items():
        engines.add_row(name, "[green]yes[/]" if reason is None else f"no: {escape(reason)}")
    console.print(engines)
    if json is not None:
        write_json(json, found)


def _introduce(console: Console, run: Any) -> None:
    from gta_ref.tour import CONFIG

    c = CONFIG
    console.print(
        f"[bold]GTA-1B's attention layer[/]: H {c.hidden_size}, {c.n_heads} output heads of {c.head_dim}, "
        f"{c.n_q} maps, {c.n_k} key head, {c.n_c} latent head of {c.latent_dim}",
        highlight=False,
    )
    console.print(f"Text: the first {len(run.text)} bytes of {run.source}, a byte a token:", highlight=False)
    first = run.text.decode("utf-8", errors="replace").splitlines()[:4]
    console.print("\n".join(f"  [dim]{escape(line)}[/]" for line in first), highlight=False)
    console.print("The weights are random: these numbers are about the mechanism, not about language.\n")


_MEANING = {
    "q_proj": "queries, one head a map",
    "k_proj": "keys",
    "c": "latent values; [bold]cached[/]",
    "q": "queries after RoPE",
    "k": "keys after RoPE; [bold]cached[/]",
    "scores": "Q Kᵀ / √d_h; a fused engine never stores it",
    "map": "softmax, masked; nor this",
    "z": "latent context, A C",
    "values": "decoded, Z W_P + copies of Z",
    "gate": "σ(x W_G), from the query's token",
    "heads": "values ⊙ gate",
    "out": "heads W_O",
}


def _show_stages(console: Console, stages: dict[str, Any]) -> None:
    console.print("[bold]1. The stages of a forward pass[/], float32")
    table = _table("stage", "shape", "bytes", "what")
    table.columns[2].justify = "right"
    for name, stage in stages.items():
        table.add_row(name, str(tuple(stage["shape"])), f"{stage['bytes']:,}", _MEANING[name])
    console.print(table)


def _show_equation(console: Console, found: dict[str, Any]) -> None:
    console.print("\n[bold]2. Eq. 7 = Eq. 8[/]: decode every value and attend, or attend and decode once")
    _verdict(console, "largest difference ÷ largest value", found["relative_error"], found)


def _show_gradients(console: Console, found: dict[str, Any]) -> None:
    console.print("\n[bold]3. The backward pass[/] against finite differences along a random direction, N = 64")
    table = _table("by", "relative error")
    table.columns[1].justify = "right"
    for name, error in found["relative_error"].items():
        table.add_row(name, f"{error:.1e}")
    console.print(table)
    _verdict(console, "worst", max(found["relative_error"].values()), found)


def _show_decoding(console: Console, found: dict[str, Any]) -> None:
    padding = ", ".join(map(str, found["left_padding"]))
    console.print(f"\n[bold]4. Decoding a token at a time[/] = the full forward; left padding of {padding} tokens")
    _verdict(console, "largest difference ÷ largest value", found["relative_error"], found)


def _show_costs(console: Console, found: dict[str, Any]) -> None:
    console.print("\n[bold]5. What it saves[/] beside GQA-1B")
    table = _table("", "GTA-1B", "GQA-1B", "ratio")
    for column in table.columns[1:]:
        column.justify = "right"
    for label, key, ratio in (
        ("cache elements a token and layer", "cache_elements", "cache_ratio"),
        (f"bytes held, {found['tokens']} tokens, {found['layers']} layers, bfloat16", "cache_bytes", "cache_ratio"),
        ("attention multiply–accumulates a pair", "attention_macs", "attention_ratio"),
    ):
        gta, gqa = found[key].values()
        table.add_row(label, f"{gta:,}", f"{gqa:,}", f"[bold]{found[ratio]:.3f}[/]")
    console.print(table)


_SHOW = {
    "stages": _show_stages,
    "equation_7_is_8": _show_equation,
    "gradients": _show_gradients,
    "decoding": _show_decoding,
    "costs": _show_costs,
}


def _verdict(console: Console, label: str, error: float, found: dict[str, Any]) -> None:
    word = "[green]holds[/]" if found["holds"] else "[red]FAILS[/]"
    console.print(f"   {label}: {error:.1e} (bound {found['bound']:.0e}): {word}", highlight=False)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in columns:
        table.add_column(column)
    return table


def main() -> None:
    """Entry point."""
    app()


if __name__ == "__main__":
    main()
