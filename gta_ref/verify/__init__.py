"""Check whether an implementation is right, and if it is not, find where it goes wrong.

Start with ``from gta_ref.verify import verify``; ``docs/verify.md`` shows how.
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
    """Makes ``gta_ref.verify(…)`` call the function ``verify``, although this package has the same name."""

    def __call__(self, *arguments: Any, **options: Any) -> Report:
        from gta_ref.verify.run import verify

        return verify(*arguments, **options)


sys.modules[__name__].__class__ = _Callable


def __getattr__(name: str) -> Any:
    """Import a name when it is first used, because the pytest plugin is in this package and must start quickly."""
    if name == "verify":
        from gta_ref.verify.run import verify

        return verify
    if name == "Report":
        from gta_ref.verify.report import Report

        return Report
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
