"""gta-ref costs: memory, operations and roofline times of models, the speed-up frontier, and the design space."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from gta_ref.commands.common import JsonOption, one_line_errors, table

if TYPE_CHECKING:
    from gta_ref.costs.model import Model

app = typer.Typer(
    help="Compare the memory, operations and roofline times of models.",
    invoke_without_command=True,
    rich_markup_mode=None,
)

HardwareOption = Annotated[
    str,
    typer.Option(
        help="The machine whose speed is used: h100, a100, rtx3060, m2, measured (this machine, by a short test), or "
        "two numbers GB/s,TFLOP/s, such as 3072,989.5."
    ),
]
ConventionOption = Annotated[
    str,
    typer.Option(
        help="How operations and bytes are counted: moved (those that are really computed and moved) or llm-viewer "
        "(the convention of the paper's authors)."
    ),
]


@app.callback()
@one_line_errors
def costs(
    context: typer.Context,
    models: Annotated[
        str,
        typer.Option(
            help="Models to compare, separated by commas: gta-1b, gqa-1b, smollm2, a model's .safetensors file from "
            "gta-ref train or gta-ref convert, a GGUF file with Llama's architecture, JSON files of sizes, or the "
            "config.json of a Hugging Face model (Llama, SmolLM2, Mistral, Qwen2, Qwen3, Granite, DeepSeek-V2 and V3). "
            "The last one is the baseline of the ratios."
        ),
    ] = "gta-1b,gqa-1b",
    model: Annotated[
        list[str] | None,
        typer.Option(
            help='Another model, given by its mechanism and sizes: --model "gta n_q=10 n_k=1 n_c=1 latent_dim=256". It '
            "comes before those of --models; the option may be repeated."
        ),
    ] = None,
    batch: Annotated[int, typer.Option(help="Number of sequences that are processed together.")] = 1,
    length: Annotated[
        int, typer.Option(help="Tokens in the prompt of a prefill, and in the cache before a decoding step.")
    ] = 4096,
    hardware: HardwareOption = "h100",
    fused: Annotated[
        bool, typer.Option("--fused", help="Assume fused attention, which never writes its maps to memory.")
    ] = False,
    convention: ConventionOption = "moved",
    dtype: Annotated[
        str, typer.Option(help="Type of the cached numbers: float64, float32, bfloat16 or float16.")
    ] = "bfloat16",
    json: JsonOption = None,
) -> None:
    """Compare models by cache, parameters, operations, and the time that a roofline predicts."""
    if context.invoked_subcommand is not None:
        return
    from gta_ref.costs import hardware as machines
    from gta_ref.costs.memory import weight_bytes
    from gta_ref.costs.roofline import check_fits
    from gta_ref.costs.summary import summary
    from gta_ref.files import write_json

    chosen = _models(models, model or [])
    machine = machines.get(hardware)
    console = Console()
    for one in chosen:
        need = weight_bytes(one)
        if machine.memory is None or need <= machine.memory:
            check_fits(one, batch, length, machine)
        else:  # no length would fit; the counts are true all the same
            console.print(
                f"{one.name}: its weights need {need:,} bytes and {machine.name} holds {machine.memory:,}; the times "
                "are those of a machine as fast with enough memory.",
                highlight=False,
                markup=False,
            )
    found = summary(chosen, batch, length, machine, fused=fused, convention=convention, dtype=dtype)
    _show(console, found)
    if json is not None:
        write_json(json, found)


@app.command()
@one_line_errors
def frontier(
    hardware: HardwareOption = "h100",
    convention: ConventionOption = "moved",
    out: Annotated[
        Path, typer.Option(help="Image file for the figure; its numbers go to a JSON file of the same name.")
    ] = Path("gta-frontier.png"),
) -> None:
    """Show from which length GTA-1B is faster than GQA-1B.

    For each batch size, a table has the lengths from which GTA-1B is 1, 1.5, 2 and 3 times as fast as GQA-1B according
    to the roofline. The figure shows the speed-up over batch and length.
    """
    from gta_ref.costs import hardware as machines
    from gta_ref.costs.frontier import speed_ups
    from gta_ref.costs.model import Model
    from gta_ref.plots.costs import speed_up_frontier

    machine = machines.get(hardware)
    found = speed_ups(Model.preset("gta-1b"), Model.preset("gqa-1b"), machine, convention=convention)
    console = Console()
    console.print(
        f"Length from which GTA-1B is that many times as fast as GQA-1B; {machine.name}, convention {convention}"
    )
    shown = [i for i, b in enumerate(found["batches"]) if b in (1, 8, 32, 128)]
    rows = table("", "at least", *(f"batch {found['batches'][i]}" for i in shown), numbers_from=1)
    for name, levels in found["reached"].items():
        for level, lengths in levels.items():
            cells = ["never" if lengths[i] is None else f"{lengths[i]:,}" for i in shown]
            rows.add_row(name if level == next(iter(levels)) else "", f"{level} ×", *cells)
    console.print(rows)
    figure = speed_up_frontier(
        found["batches"], found["lengths"], found["ratio"], f"GQA-1B's time over GTA-1B's, {machine.name}"
    )
    content = {**found, "ratio": {name: _finite(grid) for name, grid in found["ratio"].items()}}
    _write(console, out, figure, {"hardware": vars(machine), "convention": convention, **content})


@app.command()
@one_line_errors
def design(
    hidden_size: Annotated[int, typer.Option(help="Width H of the model.")] = 1280,
    n_heads: Annotated[int, typer.Option(help="Number of output heads.")] = 20,
    head_dim: Annotated[int, typer.Option(help="Width of an output head.")] = 64,
    parameters: Annotated[
        int | None,
        typer.Option(
            help="Fewest parameters that a layer may have to be marked as efficient. Default: those of a GQA layer "
            "with n_heads/4 key heads."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Image file for the figure; its numbers go to a JSON file of the same name.")
    ] = Path("gta-design.png"),
) -> None:
    """Compare all sizes that a GTA layer could have.

    The figure shows cache, operations and parameters for every choice of n_q maps, n_k key heads, n_c latent heads and
    latent width d_l. It marks the efficient choices: of those with enough parameters, no other choice needs both a
    smaller cache and fewer operations in the attention core.
    """
    from gta_ref.costs.frontier import choices
    from gta_ref.costs.model import Model
    from gta_ref.mechanisms import gqa
    from gta_ref.plots.costs import design_space

    if parameters is None:
        n_k = n_heads // 4 if n_heads % 4 == 0 else n_heads
        parameters = gqa.structure(gqa.Config(hidden_size, n_heads, head_dim, n_k)).parameters
    found = choices(hidden_size, n_heads, head_dim, parameters)
    efficient = sorted((c for c in found if c.efficient), key=lambda c: c.cache)
    console = Console()
    console.print(
        f"{len(found)} choices of n_q, n_k, n_c, d_l at H {hidden_size}, {n_heads} heads of width {head_dim}. Among "
        f"those with at least {parameters:,} parameters, no choice beats one of these in both cache and attention:",
        highlight=False,
    )
    rows = table("n_q", "n_k", "n_c", "d_l", "cache elements", "attention MACs", "parameters", numbers_from=0)
    for c in efficient:
        sizes = (c.n_q, c.n_k, c.n_c, c.latent_dim, c.cache, c.attention, c.parameters)
        rows.add_row(*(f"{n:,}" for n in sizes))
    console.print(rows)
    content = {"parameters": parameters, "choices": [vars(c) for c in found]}
    published = ("gta-1b", "gqa-1b") if (hidden_size, n_heads, head_dim) == (1280, 20, 64) else ()
    marked = {name.upper(): Model.preset(name).structure for name in published}
    _write(console, out, design_space(found, parameters, marked), content)


def _models(names: str, sizes: list[str]) -> list[Model]:
    """The models given by sizes, followed by those given by name or file."""
    from gta_ref.costs.model import Model
    from gta_ref.errors import check_choice
    from gta_ref.mechanisms.published import PUBLISHED
    from gta_ref.weights import pretrained
    from gta_ref.weights.config_costs import model_costs
    from gta_ref.weights.load import load_config

    chosen = [Model.parse(text) for text in sizes]
    for name in filter(None, (part.strip() for part in names.split(","))):
        if name.endswith(".json"):
            chosen += _from_json(name)
        elif name in pretrained.MODELS or name.endswith((".safetensors", ".gguf")):
            chosen.append(model_costs(Path(name).stem, load_config(name)))
        else:
            check_choice("model", name, (*PUBLISHED, *pretrained.MODELS))
            chosen.append(Model.preset(name))
    if not chosen:
        raise ValueError("models='' must name at least one model")
    twice = sorted({one.name for i, one in enumerate(chosen) if one.name in {other.name for other in chosen[:i]}})
    if twice:  # the results are kept by name
        raise ValueError(f"models: the name {twice[0]!r} is there twice; expected different names")
    return chosen


def _from_json(name: str) -> list[Model]:
    """The models of a file of sizes, or the one of a config.json."""
    from gta_ref.costs.model import Model
    from gta_ref.files import one_line, parse_json
    from gta_ref.weights.config_costs import costs_model, is_config_json

    try:
        content = parse_json(Path(name).read_bytes())
    except ValueError as error:
        raise ValueError(f"{name}: not a JSON file ({one_line(error)})") from None
    if is_config_json(content):
        path = Path(name)  # every model has a config.json, in a folder of its own
        return [costs_model(path.resolve().parent.name if path.name == "config.json" else path.stem, content)]
    content = content if isinstance(content, list) else [content]
    return [Model.from_dict({"name": Path(name).stem, **one} if isinstance(one, dict) else one) for one in content]


def _show(console: Console, found: dict[str, Any]) -> None:
    setting = found["setting"]
    fused = "fused" if setting["fused"] else "unfused"
    console.print(
        f"batch {setting['batch']}, length {setting['length']}, {setting['hardware']['name']} "
        f"({setting['hardware']['bandwidth'] / 1e9:,.0f} GB/s, {setting['hardware']['peak'] / 1e12:,.4g} TFLOP/s), "
        f"{fused} attention, convention {setting['convention']}",
        highlight=False,
    )
    names = list(found["models"])
    labels = {
        name: name if len(name) <= 12 else f"{found['models'][name]['mechanism']} ({i})"
        for i, name in enumerate(names, 1)
    }
    for name, label in labels.items():
        if label != name:
            console.print(f"{label}: {name}", highlight=False, markup=False)
    for name, label in labels.items():
        if any(isinstance(found["models"][name][number], float) for number in ("cache_elements", "attention_macs")):
            note = f"{label}: its layers differ in size; elements and MACs per layer are means over them"
            console.print(note, highlight=False, markup=False)
    baseline = labels[names[-1]]
    ratios = [f"{labels[name]} ÷ {baseline}" for name in names[:-1]]
    beside = len(names) <= 3  # with more models, the ratios are shown in a second table
    rows = table("", *labels.values(), *(ratios if beside else []), numbers_from=1)
    more = table("", *ratios, numbers_from=1)
    for label, path, form in _ROWS:
        values = [_at(found["models"][name], path) for name in names]
        quotients = [f"{value / values[-1]:.3f}" for value in values[:-1]]
        rows.add_row(label, *(form(value) for value in values), *(quotients if beside else []))
        more.add_row(label, *quotients)
    console.print(rows)
    if not beside:
        console.print(more)


def _count(value: float) -> str:
    if isinstance(value, float):  # a mean over layers that differ
        return f"{value:,.1f}"
    return f"{value:,}" if value < 1e9 else f"{value:.5e}"


def _seconds(value: float) -> str:
    return f"{value:.6g}"


_ROWS = (
    ("parameters", ("parameters",), _count),
    ("cache, elements per token and layer", ("cache_elements",), _count),
    ("cache, bytes per token", ("cache_bytes_per_token",), _count),
    ("cache, bytes", ("cache_bytes",), _count),
    ("attention, MACs per query and key", ("attention_macs",), _count),
    ("kept for the backward, elements", ("training_activations",), _count),
    ("training step, operations", ("training_operations",), _count),
    ("prefill, operations", ("prefill", "operations"), _count),
    ("prefill, bytes moved", ("prefill", "bytes"), _count),
    ("prefill, seconds", ("prefill", "seconds"), _seconds),
    ("decode, operations", ("decode", "operations"), _count),
    ("decode, bytes moved", ("decode", "bytes"), _count),
    ("decode, seconds per step", ("decode", "seconds"), _seconds),
)


def _at(tree: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


def _finite(grid: Any) -> list[list[float | None]]:
    """The grid as nested lists with None for NaN, which JSON does not have."""
    return [[None if value != value else float(value) for value in row] for row in grid]


def _write(console: Console, out: Path, figure: Any, content: dict[str, Any]) -> None:
    from gta_ref.files import write_json
    from gta_ref.plots.common import save

    save(figure, out)
    beside = out.with_suffix(".json")
    write_json(beside, content)
    console.print(f"Written: {out}, {beside}", highlight=False, markup=False)
