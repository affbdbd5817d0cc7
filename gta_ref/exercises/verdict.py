"""The result of a check: passed or not, one hint, and a picture if one helps."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Verdict:
    """The result of one ``check``: shown as text in Python, as text and picture in a notebook; true if it passed.

    Attributes
    ----------
    exercise : str
        Name of the exercise, such as "ex03".
    passed : bool
        Whether nothing was found to be wrong.
    hint : str
        The first thing that is wrong, or what was checked.
    draw : function or None
        Returns the picture; matplotlib is imported only when it is called.
    """

    exercise: str
    passed: bool
    hint: str
    draw: Callable[[], Figure] | None = field(default=None, repr=False, compare=False)

    def __bool__(self) -> bool:
        return self.passed

    def __repr__(self) -> str:
        return f"{self.exercise}: {'passed' if self.passed else 'not yet'}. {self.hint}"

    def figure(self) -> Figure | None:
        """The picture as a matplotlib Figure; None if there is none."""
        return None if self.draw is None else self.draw()

    def _repr_html_(self) -> str:
        """The HTML that Jupyter shows."""
        colour = "#009E73" if self.passed else "#D55E00"
        head = f"<b>{self.exercise}: {'passed' if self.passed else 'not yet'}.</b>"
        first, _, rest = self.hint.partition("\n")
        text = f'<p style="margin:0">{head} {html.escape(first)}</p>'
        if rest:
            text += f'<pre style="margin:0.4em 0 0 0">{html.escape(rest)}</pre>'
        figure = self.figure()
        if figure is not None:
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=100)
            data = base64.b64encode(buffer.getvalue()).decode("ascii")
            text += (
                f'<img alt="yours, what is expected, and the difference" style="max-width:100%;margin-top:0.5em" '
                f'src="data:image/png;base64,{data}">'
            )
        return f'<div style="border-left:4px solid {colour};padding:0.3em 0.8em">{text}</div>'
