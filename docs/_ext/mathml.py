r"""Convert formulas to MathML when the site is built, so that the pages need neither JavaScript nor a network for them.

The package math-core converts TeX to MathML Core, which Chromium, Firefox and Safari display. A formula that it cannot
convert causes a warning of the build with the formula's place. The font of the formulas is STIX Two Math from the
package ziamath, because browsers stretch parentheses only with a font made for mathematics.
"""

from __future__ import annotations

import re
from html import escape
from importlib import resources
from pathlib import Path
from shutil import copyfile

from docutils import nodes
from math_core import LatexError, LatexToMathML
from sphinx.application import Sphinx
from sphinx.locale import _
from sphinx.util import logging
from sphinx.writers.html5 import HTML5Translator

logger = logging.getLogger(__name__)
converter = LatexToMathML(fancy_error=False)
NUMBERED = re.compile(r"\\(begin|end)\{(equation|align|gather|multline)\}")
TAG = re.compile(r"\\tag\{([^{}]*)\}")
PRIME = re.compile(r"<msup>(<mi>[^<]*</mi>)<mo>([′″])</mo></msup>")


def to_mathml(tex: str, *, block: bool) -> str:
    """Convert one formula to a <math> element.

    Raises
    ------
    ValueError
        If the TeX has an unknown command, an unclosed brace or an unclosed environment.
    """
    tex = NUMBERED.sub(r"\\\1{\2*}", TAG.sub("", tex))  # the equation number is written next to the formula
    try:
        mathml = converter.convert_with_local_state(tex, displaystyle=block)
    except LatexError as error:
        raise ValueError(f"formula {tex!r}: {error}") from None
    # fonts already draw a prime raised; as a superscript, browsers would raise it again and shrink it
    return PRIME.sub(r'<mrow>\1<mo lspace="0" rspace="0">\2</mo></mrow>', mathml).strip()


def visit_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write a formula inside a line of text."""
    self.body.append(f'<span class="math">{_converted(node, block=False)}</span>')
    raise nodes.SkipNode


def visit_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write a formula on a separate line, with its number if it has one."""
    attributes = {"ids": node["ids"]} if node["ids"] else {}
    self.body.append(self.starttag(node, "div", CLASS="math math-block", **attributes))
    self.body.append(f'<div class="math-scroll">{_converted(node, block=True)}</div>')
    if tag := TAG.search(node.astext()):
        self.body.append(f'<span class="eqno">({tag[1]})</span>')
    elif node["number"] and not node.get("nowrap"):  # an amsmath environment in a notebook has no number
        self.body.append(f'<span class="eqno">({node["number"]})')
        self.add_permalink_ref(node, _("Link to this equation"))
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def _converted(node: nodes.Element, *, block: bool) -> str:
    try:
        return to_mathml(node.astext(), block=block)
    except ValueError as error:
        logger.warning("%s", error, location=node, type="mathml")
        return f"<code>{escape(node.astext())}</code>"


def copy_font(app: Sphinx, _error: Exception | None = None) -> None:
    """Copy the font into the folder of the style sheet."""
    if app.builder.format == "html":
        font = resources.files("ziamath") / "fonts" / "STIXTwoMath-Regular.ttf"
        target = Path(app.outdir) / "_static" / "math.ttf"
        target.parent.mkdir(parents=True, exist_ok=True)
        with resources.as_file(font) as source:
            copyfile(source, target)


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_html_math_renderer("mathml", (visit_inline, None), (visit_block, None))
    app.connect("build-finished", copy_font)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
