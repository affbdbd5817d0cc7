"""gta-ref train: train a small language model from scratch on text, with one token per byte."""

from __future__ import annotations

import dataclasses
import shlex
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from gta_ref.commands.common import JsonOption, one_line_errors

# options of the command that are fields of Settings
_SETTINGS = ("steps", "batch", "length", "learning_rate", "seed", "validate_every")
_SIZES = ("hidden_size", "n_heads", "n_layers")


@one_line_errors
def train(
    context: typer.Context,
    mechanism: Annotated[
        str, typer.Option(help="The attention mechanism: mha, mqa, gqa, mla, gva, gha or gta.")
    ] = "gta",
    hidden_size: Annotated[int, typer.Option(help="Width of the model.")] = 128,
    n_heads: Annotated[int, typer.Option(help="Number of output heads in each layer.")] = 8,
    n_layers: Annotated[int, typer.Option(help="Number of layers.")] = 4,
    gate: Annotated[
        str | None,
        typer.Option(help="The gate's activation: sigmoid, silu, relu2 or none. Default: that of the mechanism."),
    ] = None,
    text: Annotated[
        Path | None, typer.Option(help="Text file to learn from. Default: the source of Python's standard library.")
    ] = None,
    steps: Annotated[int, typer.Option(help="Total number of training steps.")] = 600,
    batch: Annotated[int, typer.Option(help="Number of sequences per step.")] = 16,
    length: Annotated[int, typer.Option(help="Length of a sequence in bytes, each of which is a token.")] = 256,
    learning_rate: Annotated[float, typer.Option(help="Peak of the learning rate, reached after the warm-up.")] = 6e-3,
    seed: Annotated[int, typer.Option(help="Seed of the initial weights and of the batches.")] = 0,
    validate_every: Annotated[
        int, typer.Option(help="Number of steps between validations; the run is saved after each.")
    ] = 100,
    engine: Annotated[
        str, typer.Option(help="Engine that computes the attention core: auto, numba or reference.")
    ] = "auto",
    out: Annotated[Path, typer.Option(help="File in which the run is saved, ending in .safetensors.")] = Path(
        "gta-run.safetensors"
    ),
    resume: Annotated[
        Path | None, typer.Option(help="File of a saved run to continue; it is updated, and --out is ignored.")
    ] = None,
    json: JsonOption = None,
) -> None:
    """Train a small decoder language model on text.

    Ctrl-C saves the run, and --resume continues it exactly where it was. The MLP's width is chosen so that a model has
    as many parameters with any mechanism as with MHA at the same width.

    Started by mpiexec -n R, the command distributes each batch over R processes. The run is saved by the first one and
    can be continued with another number of processes.
    """
    from gta_ref.distributed.launch import launched, together

    with together() if launched() > 1 else nullcontext() as comm:
        _train(context, comm, mechanism, gate, text, engine, out, resume, json)


def _train(
    context: typer.Context,
    comm: Any,
    mechanism: str,
    gate: str | None,
    text: Path | None,
    engine: str,
    out: Path,
    resume: Path | None,
    json: Path | None,
) -> None:
    """Train in one process, or in those of `comm`."""
    from gta_ref.files import check_writable, write_json
    from gta_ref.lm import small
    from gta_ref.lm import text as texts
    from gta_ref.lm import train as training

    options: dict[str, Any] = {"gate": gate} if gate is not None else {}
    config = small.config(mechanism, **{name: context.params[name] for name in _SIZES}, **options)
    settings = training.Settings(
        **{name: context.params[name] for name in _SETTINGS}, warmup=max(1, min(50, context.params["steps"] // 10))
    )
    first = comm is None or comm.Get_rank() == 0  # the process that prints and saves
    console = Console(markup=False, quiet=not first)  # names of files may look like markup
    if resume is None:
        check_writable(out)
        _check_memory(small.n_parameters(config))
        source = _source(texts, text)
        run = training.begin(config, settings, source)
    else:
        run = training.load(resume) if comm is None else comm.bcast(training.load(resume) if first else None)
        _check_same(context, resume, run, config, settings)
        out, source = resume, _source(texts, text)
        if not _is_done(training, run):
            check_writable(out)
    made = run.config
    console.print(
        f"{mechanism if resume is None else made.mechanism}: {small.n_parameters(made):,} parameters, "
        f"{made.n_layers} layers of width {made.hidden_size}; "
        f"{made.cache_elements:g} cached elements per token and layer",
        highlight=False,
    )
    console.print(f"text: {source.name}", highlight=False)
    if _is_done(training, run):
        console.print(f"{out}: this run has done all its {run.state.step} steps", highlight=False)
    elif run.state.step:
        console.print(f"continues after step {run.state.step}", highlight=False)
    done = _is_done(training, run)
    try:
        _advance(console, comm, training, run, source, engine, out)
    except KeyboardInterrupt:
        if first:
            training.save(out, run)
        raise KeyboardInterrupt(
            f"stopped after step {run.state.step}; continue: gta-ref train --resume {shlex.quote(str(out))}"
        ) from None
    except training.DivergedError as error:
        kept = f"the run up to its last validation is in {out}" if out.is_file() else "nothing was written"
        raise ValueError(f"{error}; {kept}; try a smaller --learning-rate") from None
    console.print(f"loss {run.losses[-1]:.3f}, on held-out text {run.validation[run.state.step]:.3f} nats per byte")
    if not done:
        console.print(f"written: {out}", highlight=False)
    if json is not None and first:
        write_json(json, _figures(run))


def _is_done(training: Any, run: Any) -> bool:
    return run.state.step == run.settings.steps and not training.is_unvalidated(run)


def _check_memory(n_parameters: int) -> None:
    """Raise ValueError if the machine cannot hold a model of this size and the state of its training."""
    from gta_ref.costs.hardware import physical_memory

    needed, memory = 16 * n_parameters, physical_memory()  # float32: the weights, their gradient and two moments
    if memory is not None and needed > memory:
        raise ValueError(
            f"the model has {n_parameters:,} parameters, and training it takes at least {-(-needed // 10**9):,} GB; "
            f"this machine has {memory // 10**9:,} GB of memory; choose a smaller --n-layers or --hidden-size"
        )


def _source(texts: Any, text: Path | None) -> Any:
    return texts.standard_library() if text is None else texts.from_file(text)


def _advance(console: Console, comm: Any, training: Any, run: Any, source: Any, engine: str, out: Path) -> None:
    if _is_done(training, run):
        training.advance(run, source)  # there is no step left to train, but this checks the text
        return
    columns = BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeRemainingColumn()
    tokens = run.settings.batch * run.settings.length
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=run.settings.steps, completed=run.state.step)

        def show(run: Any) -> None:
            rate = tokens * run.state.step / run.seconds
            bar.update(task, completed=run.state.step, description=f"loss {run.losses[-1]:.3f}, {rate:,.0f} tokens/s")

        def keep(run: Any) -> None:
            if console.quiet:  # a process that neither prints nor saves
                return
            training.save(out, run)
            bar.console.print(f"step {run.state.step}: held out {run.validation[run.state.step]:.3f}", highlight=False)

        callbacks = {"on_step": show, "on_validation": keep}
        if comm is None:
            training.advance(run, source, engine=engine, **callbacks)
            return
        from gta_ref.distributed.training import data_parallel

        training.advance(run, source, engine=engine, gradient=partial(data_parallel, comm), **callbacks)


def _check_same(context: typer.Context, path: Path, run: Any, config: Any, settings: Any) -> None:
    """Raise ValueError if an option that was given contradicts the file of the run."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    given = {name for name, found in sources.items() if found is not None and found.name != "DEFAULT"}
    for name in _SETTINGS:
        asked, held = getattr(settings, name), getattr(run.settings, name)
        if name in given and asked != held:
            raise ValueError(f"{path} holds a run with {name}={held}; asked for {asked}")
    if given & {"mechanism", "gate", *_SIZES} and config != run.config:
        if isinstance(run.config.attention, tuple):
            raise ValueError(f"{path} holds a model whose layers differ in size; expected no option about its sizes")
        fields = dataclasses.asdict(run.config), dataclasses.asdict(config)
        flat = [{**f, **f["attention"]} for f in fields]
        differ = sorted(n for n in flat[0] if n != "attention" and flat[0][n] != flat[1].get(n))
        raise ValueError(
            f"{path} holds another model: " + ", ".join(f"{n}={flat[0][n]} (asked: {flat[1].get(n)})" for n in differ)
        )


def _figures(run: Any) -> dict[str, Any]:
    return {
        "config": dataclasses.asdict(run.config),
        "settings": dataclasses.asdict(run.settings),
        "text": run.source,
        "losses": run.losses,
        "validation": run.validation,
        "tokens_per_second": run.settings.batch * run.settings.length * run.state.step / run.seconds,
    }
