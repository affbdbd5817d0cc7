"""gta-ref bench distributed: the speed of the attention core over several processes."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from gta_ref.commands.common import JsonOption, machine_line, one_line_errors, table


@one_line_errors
def distributed(
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure one short sequence, only to see that the benchmark runs.")
    ] = False,
    json: JsonOption = None,
) -> None:
    """Time the attention core of GTA-1B as a ring of processes: mpiexec -n R gta-ref bench distributed.

    Each process has one thread. The first one also computes the whole alone, with one thread and with R threads.
    """
    from gta_ref.bench import distributed as benchmark
    from gta_ref.distributed.launch import together
    from gta_ref.files import write_json

    with together() as comm:
        first = comm.Get_rank() == 0
        console = Console(quiet=not first)
        with console.status("") as status:
            found = benchmark.run(comm, quick, lambda name: status.update(f"measuring: {name}"))
        console.print(machine_line(found["machine"]), highlight=False)
        between = found["link"]
        console.print(
            f"{found['ranks']} ranks with one thread each. A message: {between['latency'] * 1e6:.1f} µs and "
            f"{between['bandwidth'] / 1e9:.1f} GB/s. Times are medians, of the slowest rank.\n",
            highlight=False,
        )
        threads = f"{found['ranks']} threads"
        rows = table(
            "ms", "1 thread", threads, "ring", "predicted", f"÷ {threads}", "1 rank ÷ none", "sent, MB", numbers_from=1
        )
        for case in found["cases"]:
            rows.add_row(
                case["name"],
                *(f"{case[name] * 1e3:.0f}" for name in ("alone", "threaded", "ring", "predicted")),
                f"{case['efficiency']:.2f}",
                f"{case['one_rank']:.3f}",
                f"{case['sent'] / 1e6:.1f}",
            )
        console.print(rows)
        if found["memory"] is not None:
            grown = found["memory"]
            console.print(
                f"\nMemory of a forward at N {grown['length']:,}: {grown['rank'] / 2**20:.0f} MiB per rank, "
                f"{grown['alone'] / 2**20:.0f} MiB in one process, {grown['rank'] / grown['alone']:.2f} ×",
                highlight=False,
            )
        if json is not None and first:
            write_json(json, found)
    if wrong := [case["name"] for case in found["cases"] if case["sent"] != case["formula"]]:
        console.print(f"[red]{', '.join(wrong)}: the bytes sent are not those of the formula[/]")
        raise typer.Exit(1)
