"""The directive ``conformance``: tables of what implementations do, from docs/conformance/results.json.

``make conformance`` measures; the site is built from the file alone. The argument says which part of it is shown:
versions, matrix, layers, figures, failures or findings.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).parents[1] / "conformance" / "results.json"
SHORT = {"float64": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
START = {"2x4": ["1000", "1100"], "4x2": ["10", "11", "11", "11"]}
END = {"2x4": ["1110", "1111"], "4x2": ["00", "00", "10", "11"]}
Row = dict[str, Any]


def cell(word: str, why: str = "", kind: str = "convention") -> str:
    """A word of the matrix, with its figure on hover; limitations are in italics, bugs in bold."""
    mark = {"convention": "", "limitation": "*", "bug": "**"}[kind]
    text = f"{{abbr}}`{word} ({why})`" if why else word
    return f"{mark}{text}{mark}"


def blind(row: Row) -> str:
    """What a row that sees nothing gives."""
    word = row["probes"]["blind"]["z"]
    why = {
        "0": "rows 0 and 1 of z are exactly 0",
        "mean of v": "the mean over all keys, hidden ones too, within 0.02",
        "NaN": "NaN",
        "unmasked": "as if the mask were not there, within 0.02",
        "refused": "the call raised an error",
    }
    if word == "not asked":
        return "–"
    if word == "other":
        return cell("sees keys", "neither 0 nor a mean: with more queries than keys, the flag hides no whole row")
    return cell(word, why[word], "limitation" if word == "refused" else "convention")


def gradient(row: Row) -> str:
    """What the gradient of such a row is, for d_z = 1."""
    word = row["probes"]["blind"].get("gradient")
    if row["probes"]["blind"]["z"] == "other":
        return "–"
    if word is None:
        return "–" if row["backward"] else cell("none", "the library computes no gradients here", "limitation")
    if word == "as if each weight were 1":
        return cell("too large", "the gradient of v is that of a sum over the keys, z is their mean", "bug")
    if word.startswith("NaN"):
        return cell("NaN", word, "bug")
    return cell(word, "the gradient of v agrees with that of this z") if word != "other" else cell(word, "", "bug")


def aligned(row: Row) -> str:
    """To which end the causal flag is aligned, from the keys that each row sees."""
    if row["told"] not in ("flag", "module"):
        return "mask"
    seen = row["probes"]["seen"]
    said = "; ".join(
        f"{n.replace('x', ' queries, ')} keys: {x if isinstance(x, str) else ' '.join(x)}" for n, x in seen.items()
    )
    if seen == START:
        return cell("start", said)
    if seen["2x4"] == END["2x4"]:
        more = seen["4x2"]
        if more == START["4x2"]:
            return cell("end, start if N_q > N_k", said, "bug")
        return cell("end, N_q > N_k refused", said, "limitation") if more == "refused" else cell("end", said)
    if seen["2x4"] == "refused":
        return cell("refused", said, "limitation")
    return cell("neither", said, "bug")


def failed(row: Row, case: str) -> Row | None:
    """The entry of a case that failed."""
    return next((entry for entry in row["failed"] if entry["case"] == f"attention/{case}"), None)


def empty(row: Row) -> str:
    """What happens without tokens, and with queries but no keys."""
    found = []
    for case in ("no-token", "no-key"):
        status = row["corners"].get(f"attention/{case}", "skip")
        entry = failed(row, case)
        if entry is None:
            found.append("right" if status == "pass" else "–")
            continue
        kind = entry["kind"] if entry["kind"] in ("bug", "limitation") else "limitation"
        why = entry["text"].replace("`", "'").replace("|", "/")
        found.append(cell("crash" if " SIG" in why else "error" if status == "error" else "wrong", why, kind))
    return found[0] if found[0] == found[1] == "right" else " / ".join(found)


def shares(row: Row) -> str:
    """Whether the library shares key heads by itself, and in which order."""
    word = row["probes"].get("grouped", "–")
    if word == "tiled":
        return cell("tiled", "query head i reads key head i mod n_k, where others read i // (n_q/n_k)")
    return {"own": "yes", "refused": cell("refused", "the adapter repeats them", "limitation")}.get(word, word)


def widths(row: Row) -> str:
    """Whether d_v may differ from d_k."""
    word = row["probes"].get("widths", "–")
    return {"own": "yes", "refused": cell("refused", "the adapter pads both to one width", "limitation")}.get(
        word, word
    )


def lse(row: Row) -> str:
    """Whether lse is returned, and whether a gradient passes through it."""
    if not row["lse"]:
        return "none"
    status = row["corners"].get("attention/mha-through-lse", "skip")
    if not row["backward"]:
        return "ln; –"
    entry = failed(row, "mha-through-lse")
    if entry is None:
        return "ln; right" if status == "pass" else "ln; –"
    kind = entry["kind"] if entry["kind"] in ("bug", "limitation") else "limitation"
    return "ln; " + cell("error" if entry["status"] == "error" else "wrong", entry["why"] or entry["text"], kind)


def unused(row: Row) -> str:
    """Whether NaN in a slot that is not in use reaches z."""
    entry = failed(row, "decode-parts")
    if entry is None:
        return "stays out" if row["corners"].get("attention/decode-parts") == "pass" else "–"
    return cell("reaches z", entry["text"]) if " is nan" in entry["text"] else "–"


def double(row: Row) -> str:
    """Whether float64 is computed in float64."""
    word = row["probes"]["float64"]
    return word if word == "kept" else cell(word, "the case with one key head for each query head", "limitation")


COLUMNS: dict[str, Callable[[Row], str]] = {
    "a row that sees nothing": blind,
    "its gradient": gradient,
    "causal flag aligned to": aligned,
    "0 tokens / 0 keys": empty,
    "d_v ≠ d_k": widths,
    "grouped heads": shares,
    "lse; its gradient": lse,
    "NaN in unused slots": unused,
    "float64": double,
}


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def matrix(found: Row) -> str:
    """One row for each attention core; the library is named once."""
    rows = [row for row in found["implementations"] if row["suite"] == "attention"]
    lines = [[row["name"], *(column(row) for column in COLUMNS.values())] for row in rows if "problem" not in row]
    lines += [
        [row["name"], f"not measured: {row['problem']}", *[""] * (len(COLUMNS) - 1)] for row in rows if "problem" in row
    ]
    return table(["implementation", *COLUMNS], lines)


def versions(found: Row) -> str:
    """When, where and of which releases."""
    rows = found["implementations"]
    packages = {name: release for row in rows for name, release in row["packages"].items()}
    listed = ", ".join(f"{name} {release}" for name, release in sorted(packages.items()))
    total = {status: sum(row.get("counts", {}).get(status, 0) for row in rows) for status in ("pass", "fail", "error")}
    kinds = [entry["kind"] for row in rows for entry in row.get("failed", ()) for _ in entry["dtypes"]]
    words = ", ".join(f"{kinds.count(kind)} {kind}" for kind in ("convention", "limitation", "bug", "unexplained"))
    where = f"gta_ref {found['gta_ref']}, Python {found['python']}, {found['machine']}"
    return (
        f"Measured on {found['date']} with {where}, on the CPU: {len(rows)} variants, {total['pass']} cases passed, "
        f"{total['fail']} failed, {total['error']} raised an error. Of those that did not pass: {words}. "
        f"Packages: {listed}."
    )


def figures(found: Row) -> str:
    """Counts and precision, one row for each implementation and dtype."""
    lines = []
    for row in found["implementations"]:
        for dtype, counts in row.get("by_dtype", {}).items():
            quality = row["quality"].get(dtype, {})
            errors = [
                " / ".join(f"{x:.2f}" for x in quality[name]) if name in quality else "–"
                for name in ("outputs", "gradients")
            ]
            kinds = [entry["kind"] for entry in row["failed"] if dtype in entry["dtypes"]]
            by_kind = [str(kinds.count(kind)) for kind in ("convention", "limitation", "bug")]
            lines.append([row["name"], SHORT[dtype], str(counts["pass"]), *by_kind, str(counts["skip"]), *errors])
    head = ["implementation", "dtype", "pass", "convention", "limitation", "bug", "skip", "outputs", "gradients"]
    return table(head, lines)


def layers(found: Row) -> str:
    """Whole layers."""
    rows = [row for row in found["implementations"] if row["suite"] == "layer" and "problem" not in row]
    lines = []
    for row in rows:
        worst = row["quality"]["float32"]
        errors = [f"{worst[name][1]:.2f}" if name in worst else "–" for name in ("outputs", "gradients")]
        bad = row["counts"]["fail"] + row["counts"]["error"]
        lines.append(
            [row["name"], str(row["counts"]["pass"]), str(bad), *errors, double(row), row["adapter"] or "nothing"]
        )
    return table(["layer", "pass", "fail", "worst output", "worst gradient", "float64", "what the adapter did"], lines)


def failures(found: Row) -> str:
    """Why cases failed, and what the adapters did."""
    lines = []
    for row in found["implementations"]:
        if row["suite"] == "layer" or "problem" in row:
            continue
        reasons: dict[tuple[str, str], list[str]] = {}
        for entry in row["failed"]:
            reasons.setdefault((entry["kind"], entry["why"]), []).append(entry["case"].partition("/")[2])
        said = [f"{kind}: {why or 'not known'} ({count(names)})" for (kind, why), names in reasons.items()]
        lines.append([row["name"], row["adapter"] or "nothing", "; ".join(said).replace("|", "/") or "nothing failed"])
    return table(["implementation", "what the adapter did", "what failed, and why"], lines)


def count(cases: list[str]) -> str:
    """Names of a few cases, or how many."""
    return ", ".join(cases) if len(cases) < 3 else f"{len(cases)} cases"


PARTS = {"versions": versions, "matrix": matrix, "layers": layers, "figures": figures, "failures": failures}


class Conformance(SphinxDirective):
    """A part of the results."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        """Make the nodes of that part."""
        self.env.note_dependency(str(RESULTS))
        found = json.loads(RESULTS.read_text(encoding="utf-8"))
        if self.arguments[0] == "findings":
            return [self.finding(entry) for entry in found["findings"]]
        return self.parse_text_to_nodes(PARTS[self.arguments[0]](found))

    def finding(self, entry: Row) -> nodes.section:
        """A section with the text, the script and what it printed."""
        section = nodes.section(ids=[nodes.make_id(f"finding {entry['name']}")], names=[entry["title"].lower()])
        section += nodes.title("", entry["title"])
        kind = "Still so" if entry["there"] else "Not seen any more"
        releases = ", ".join(f"{name} {release}" for name, release in entry["packages"].items())
        section += self.parse_text_to_nodes(f"{kind}, a {entry['kind']}, in {releases}. {entry['text']}")
        section += nodes.literal_block("", entry["code"].rstrip(), language="python")
        section += nodes.literal_block("", entry["output"], language="none")
        return section


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.add_directive("conformance", Conformance)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
