"""gta-ref doctor: show what gta_ref.doctor found."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from gta_ref.commands.common import JsonOption, one_line_errors, table


@one_line_errors
def doctor(json: JsonOption = None) -> None:
    """Say what is installed, which engines can run here, and why the others cannot."""
    from gta_ref import doctor as facts
    from gta_ref.files import write_json

    found = facts.examine()
    console = Console()
    console.print(
        f"gta_ref {found['gta_ref']}, Python {found['python']}, {found['cores']} cores, {found['platform']}",
        highlight=False,
    )
    for blas in found["blas"]:
        console.print(
            f"BLAS: {blas['internal_api']} {blas['version']}, kernel {blas['architecture']}, "
            f"{blas['num_threads']} threads",
            highlight=False,
        )
    packages = table("package", "version", "for")
    for name, purpose in {**facts.REQUIRED, **facts.OPTIONAL}.items():
        version = found["packages"][name]
        packages.add_row(name, version or "[dim]not installed[/]", purpose)
    console.print(packages)
    engines = table("engine", "can run here")
    for name, reason in found["engines"].items():
        engines.add_row(name, "[green]yes[/]" if reason is None else f"no: {escape(reason)}")
    console.print(engines)
    if json is not None:
        write_json(json, found)
