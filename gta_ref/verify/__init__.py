"""Is an implementation right, and if not, where does it go wrong? Cases, vectors, comparison, diagnosis.

Start with ``gta_ref.verify.run.verify``, also as ``from gta_ref.verify import verify``; ``docs/verify.md`` shows
how.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gta_ref.verify.report import Report
    from gta_ref.verify.run import verify

__all__ = ["Report", "verify"]


class _Callable(ModuleType):
    """Lets ``gta_ref.verify(…)`` be the function of that name, although the package has the name too."""

    def __call__(self, *arguments: Any, **options: Any) -> Report:
        from gta_ref.verify.run import verify

        return verify(*arguments, **options)


sys.modules[__name__].__class__ = _Callable


def __getattr__(name: str) -> Any:
    """Import on first use: the pytest plugin lives in this package and has to start quickly."""
    if name == "verify":
        from gta_ref.verify.run import verify

        return verify
    if name == "Report":
        from gta_ref.verify.report import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
