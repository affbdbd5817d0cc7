"""A player for a sequence of figures: HTML with a slider and buttons. It needs no kernel, no file and no network.

Every frame has a text that says what it shows. The text is the picture's alternative text, and a screen reader reads it
out when the slider moves.
"""

from __future__ import annotations

import base64
import io
import uuid
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from matplotlib.figure import Figure


class Frame(NamedTuple):
    """One picture of the sequence."""

    draw: Callable[[Figure], None]  # draws into an empty figure
    text: str  # what the picture shows, for readers who do not see it


_BUTTONS = {"First frame": "|◁", "Previous frame": "◁", "Play": "▶", "Next frame": "▷", "Last frame": "▷|"}
_TEXT_STYLE = "\ufe0e"  # a sign as text, not as an emoji

_PAGE = """<div class="animation" id="{id}" role="group" aria-label="{label}">
<style>
.animation {{ display: inline-block; max-width: 100%; box-sizing: border-box; padding: 4px; text-align: center;
  color-scheme: light; background: #fff; color: #111; }}
.animation img {{ max-width: 100%; height: auto; }}
.animation img[hidden] {{ display: none !important; }}
.animation input {{ width: min(100%, 30em); }}
.animation button {{ min-width: 2.8em; margin: 4px 1px; padding: 2px 0; background: #eee; color: #111;
  border: 1px solid #767676; border-radius: 3px; }}
</style>
{pictures}
<div class="anim-controls">
<input type="range" min="0" max="{last}" value="{start}" aria-label="{slider}" aria-valuetext="{text}">
<div class="anim-buttons">
{buttons}
</div>
</div>
<script>
setTimeout(() => {{
  const player = document.getElementById("{id}");
  const pictures = player.querySelectorAll("img"), slider = player.querySelector("input");
  const [first, previous, play, next, last] = player.querySelectorAll("button");
  let timer = null;
  function show(i) {{
    slider.value = Math.min(Math.max(i, 0), pictures.length - 1);
    pictures.forEach((picture, j) => {{ picture.hidden = j !== Number(slider.value); }});
    slider.setAttribute("aria-valuetext", pictures[slider.value].alt);
  }}
  function stop() {{
    clearInterval(timer);
    timer = null;
    play.textContent = "▶\ufe0e";
    play.setAttribute("aria-label", "Play");
  }}
  function step() {{
    show(Number(slider.value) + 1);
    if (Number(slider.value) === pictures.length - 1) stop();
  }}
  function choose(i) {{
    stop();
    show(i);
  }}
  slider.oninput = () => choose(Number(slider.value));
  first.onclick = () => choose(0);
  previous.onclick = () => choose(Number(slider.value) - 1);
  next.onclick = () => choose(Number(slider.value) + 1);
  last.onclick = () => choose(pictures.length - 1);
  play.onclick = () => {{
    if (timer !== null) return stop();
    if (Number(slider.value) === pictures.length - 1) show(0);
    timer = setInterval(step, {milliseconds});
    play.textContent = "||";
    play.setAttribute("aria-label", "Pause");
  }};
}}, 0);
</script>
</div>"""


def player(
    frames: Sequence[Frame], size: tuple[float, float], *, label: str, slider: str = "Frame", start: int = 0,
    seconds: float = 1.2, dpi: int = 90,
) -> str:  # fmt: skip
    """Draw all frames, and make a player of them.

    Parameters
    ----------
    frames : sequence of Frame
        At least one.
    size : (float, float)
        Inches of each picture.
    label : str
        What the sequence as a whole shows.
    slider : str
        What the slider sets.
    start : int
        The frame that is shown first.
    seconds : float
        Seconds between two frames while it plays.
    dpi : int
        Dots per inch of the pictures.

    Returns
    -------
    html : str

    Raises
    ------
    ValueError
        If there are no frames.
    """
    if not frames:
        raise ValueError("frames is empty; expected at least one frame")
    pictures = []
    for i, frame in enumerate(frames):
        figure, buffer = Figure(figsize=size, dpi=dpi), io.BytesIO()
        frame.draw(figure)
        figure.savefig(buffer, format="png", dpi=dpi)
        data = base64.b64encode(buffer.getvalue()).decode("ascii")
        hidden = "" if i == start else " hidden"
        pictures.append(f'<img alt="{escape(frame.text)}" src="data:image/png;base64,{data}"{hidden}>')
    buttons = [
        f'<button type="button" aria-label="{name}">{sign}{_TEXT_STYLE}</button>' for name, sign in _BUTTONS.items()
    ]
    return _PAGE.format(
        id=f"player-{uuid.uuid4().hex}", label=escape(label), slider=escape(slider), text=escape(frames[start].text),
        pictures="\n".join(pictures), buttons="\n".join(buttons), start=start, last=len(frames) - 1,
        milliseconds=round(1000 * seconds),
    )  # fmt: skip
