"""gta-ref tour: run the steps of gta_ref.tour and show their results."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from gta_ref.commands.common import JsonOption, ModelOption, one_line_errors, table


@one_line_errors
def tour(
    text: Annotated[
        Path | None, typer.Option(help="Text file that the layer reads. Default: a passage of Python's own source.")
    ] = None,
    model: ModelOption = "smollm2",
    out: Annotated[Path, typer.Option(help="Folder for the figures and tour.json.")] = Path("gta-tour"),
    seed: Annotated[int, typer.Option(help="Seed of the random weights.", min=0)] = 0,
    json: JsonOption = None,
) -> None:
    """Run a GTA-1B attention layer on real text and check its claims.

    The layer has the sizes of GTA-1B and random weights. Its stages are shown, and each claim about it is computed:
    both forms of its equation, its gradients, decoding with a cache, and what it saves. The last step shows the maps of
    a trained model's middle layer on the same text, and if the model is GTA, its latents.
    """
    from gta_ref import tour as steps
    from gta_ref.files import one_line, write_json

    trained = steps.trained_model(model)  # before the steps, so that a wrong name is known at once
    source, content = (one_line(text), text.read_bytes()) if text is not None else steps.default_text()
    console = Console()
    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    bar = Progress(*columns, console=console, transient=True)
    figures: dict[str, Any] = {"text": source, "seed": seed, "weights": "random"}
    with bar:
        task = bar.add_task("random weights", total=len(steps.STEPS) + 3)
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
        bar.update(task, description="a trained model")
        figures["pretrained_maps"], real = steps.pretrained_maps(run, trained)
        _show_pretrained_maps(console, figures["pretrained_maps"])
        bar.advance(task)
        bar.update(task, description="figures")
        paths = steps.write(run, maps, real, figures, out)
        if json is not None:
            write_json(json, figures)
        bar.advance(task)
    console.print(f"\nWritten to [bold]{escape(str(out))}[/]: {', '.join(path.name for path in paths)}")
    failed = [name for name, found in figures.items() if isinstance(found, dict) and found.get("holds") is False]
    if failed:
        console.print(f"[red]failed: {', '.join(failed)}[/]")
        raise typer.Exit(1)


def _introduce(console: Console, run: Any) -> None:
    from gta_ref.tour import CONFIG

    c = CONFIG
    console.print(
        f"[bold]GTA-1B's attention layer[/]: H {c.hidden_size}, {c.n_heads} output heads of {c.head_dim}, "
        f"{c.n_q} maps, {c.n_k} key head, {c.n_c} latent head of {c.latent_dim}",
        highlight=False,
    )
    console.print(
        f"Text: the first {len(run.text)} bytes of {escape(run.source)}, one token per byte:", highlight=False
    )
    first = run.text.decode("utf-8", errors="replace").splitlines()[:4]
    console.print("\n".join(f"  [dim]{escape(line)}[/]" for line in first), highlight=False)
    console.print("The weights are random: these numbers are about the mechanism, not about language.\n")


_MEANING = {
    "q_proj": "queries, one head per map",
    "k_proj": "keys",
    "c": "latent values; [bold]cached[/]",
    "q": "queries after RoPE",
    "k": "keys after RoPE; [bold]cached[/]",
    "scores": "Q Kᵀ / √d_h; a fused engine never stores it",
    "map": "masked softmax; not stored either",
    "z": "latent context, A C",
    "values": "decoded, Z W_P + copies of Z",
    "gate": "σ(x W_G), from the query's token",
    "heads": "values ⊙ gate",
    "out": "heads W_O",
}


def _show_stages(console: Console, stages: dict[str, Any]) -> None:
    console.print("[bold]1. The stages of a forward pass[/], float32")
    rows = table("stage", "shape", "bytes", "what")
    rows.columns[2].justify = "right"
    for name, stage in stages.items():
        rows.add_row(name, str(tuple(stage["shape"])), f"{stage['bytes']:,}", _MEANING[name])
    console.print(rows)


def _show_equation(console: Console, found: dict[str, Any]) -> None:
    console.print("\n[bold]2. Eq. 7 = Eq. 8[/]: decode all values before the attention, or once after it")
    _verdict(console, "largest difference ÷ largest value", found["relative_error"], found)


def _show_gradients(console: Console, found: dict[str, Any]) -> None:
    console.print("\n[bold]3. The backward pass[/] against finite differences along a random direction, N = 64")
    rows = table("with respect to", "error ÷ all terms", numbers_from=1)
    for name, error in found["relative_error"].items():
        rows.add_row(name, f"{error:.1e}")
    console.print(rows)
    _verdict(console, "worst", max(found["relative_error"].values()), found)


def _show_decoding(console: Console, found: dict[str, Any]) -> None:
    padding = ", ".join(map(str, found["left_padding"]))
    console.print(f"\n[bold]4. Decoding one token at a time[/] = the full forward; left padding {padding}")
    _verdict(console, "largest difference ÷ largest value", found["relative_error"], found)


def _show_costs(console: Console, found: dict[str, Any]) -> None:
    console.print("\n[bold]5. What it saves[/] compared with GQA-1B")
    rows = table("", "GTA-1B", "GQA-1B", "ratio", numbers_from=1)
    for label, key, ratio in (
        ("cache elements per token and layer", "cache_elements", "cache_ratio"),
        (f"bytes held, {found['tokens']} tokens, {found['layers']} layers, bfloat16", "cache_bytes", "cache_ratio"),
        ("multiply–accumulates per query and key", "attention_macs", "attention_ratio"),
    ):
        gta, gqa = found[key].values()
        rows.add_row(label, f"{gta:,}", f"{gqa:,}", f"[bold]{found[ratio]:.3f}[/]")
    console.print(rows)


def _show_pretrained_maps(console: Console, found: dict[str, Any]) -> None:
    if "left_out" in found:
        left_out = f"\nReal maps, of a pretrained model, are left out: {found['left_out']}"
        console.print(left_out, markup=False, highlight=False, soft_wrap=True)
        return
    console.print(
        f"\n[bold]6. Real maps[/]: {found['model']}, layer {found['layer']}, reads the first {found['tokens']} tokens",
        highlight=False,
    )
    n, heads, cosine = found["maps"], found["heads"], found["cosine"]
    shared = f", each for {heads // n} of {heads} output heads," if heads > n else ""
    weight = f"{found['first_weight']:.2f} of"
    if n == 1:
        said = f"Its only map, for all {heads} output heads, gives {weight} its weight to the first token."
    else:
        said = (
            f"Its {n} maps{shared} give {weight} their weight to the first token. The mean cosine of two maps' rows is "
            f"{cosine['all_keys']:.2f}, and {cosine['without_first']:.2f} without that token. gta-ref maps compares "
            "the maps of all layers."
        )
    console.print(f"   {said}", highlight=False)
    if (latents := found["latents"]) is not None:
        cached = f"{latents['heads']} latent{'s' if latents['heads'] > 1 else ''} of width {latents['width']}"
        console.print(
            f"   It caches {cached} for each token; real-latents.png shows the values that are decoded from the first.",
            highlight=False,
        )


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
