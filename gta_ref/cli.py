"""The command gta-ref.

Its exit status is 0 for success, 1 if a check failed, 2 for wrong usage and 130 after Ctrl-C. This module imports
almost nothing, so that Ctrl-C ends the command without a traceback from its first moment on.
"""

from __future__ import annotations

from typing import Any

from gta_ref import process


def main() -> None:
    """Entry point."""
    process.set_up()
    from gta_ref.commands.app import app

    app(prog_name="gta-ref")


def __getattr__(name: str) -> Any:
    """Import `app`, the typer application, on first use."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from gta_ref.commands.app import app

    return app


if __name__ == "__main__":
    main()
