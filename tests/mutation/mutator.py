"""Mutants of a Python file: copies in which one operator, bound, call or statement is another one.

An edit replaces the bytes of one expression or statement, so all other lines keep their numbers. Not mutated are
annotations, decorators, docstrings, imports, and what only decides whether an error is raised: ``raise`` and ``assert``,
the condition of an ``if`` that does nothing else, and calls of functions called ``check_...``.
"""

import ast
import copy
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass

ARITHMETIC = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult,
    ast.LShift: ast.RShift, ast.RShift: ast.LShift, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.BitXor: ast.BitOr,
}  # fmt: skip
COMPARISONS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
EXTREMES = {
    "min": "max", "max": "min", "minimum": "maximum", "maximum": "minimum", "any": "all", "all": "any",
    "logical_and": "logical_or", "logical_or": "logical_and", "floor": "ceil", "ceil": "floor",
}  # fmt: skip
FUNCTIONS = {
    "exp": "exp2", "exp2": "exp", "log": "log2", "log2": "log", "log1p": "log", "expm1": "exp", "cos": "sin",
    "sin": "cos", "zeros": "ones", "zeros_like": "ones_like", "ones": "zeros", "ones_like": "zeros_like",
}  # fmt: skip
# instructions that a micro-kernel writes by methods of LLVM's builder
BUILDER = {
    "add": "sub", "sub": "add", "mul": "add", "fadd": "fsub", "fsub": "fadd", "fmul": "fadd", "sdiv": "srem",
    "udiv": "urem", "and_": "or_", "or_": "and_", "shl": "lshr", "lshr": "shl",
}  # fmt: skip
SIGNS = {"<": "<=", "<=": "<", ">": ">=", ">=": ">", "==": "!=", "!=": "=="}
# functions whose result depends on the order of two arguments, and the first of the two
ORDERED = {"where": 1, "select": 1, "subtract": 0, "divide": 0, "power": 0, "fsub": 0, "matmul": 0, "copysign": 0}
BARRIER = re.compile("(?<!a)sync|wait|fence|commit")


@dataclass(frozen=True)
class Mutant:
    """One edit of one file; `before` and `after` are the line in which it begins."""

    file: str
    function: str
    kind: str
    line: int
    before: str
    after: str
    start: int
    stop: int
    text: str
    number: int  # tells apart mutants that are equal in everything that is named here, in the order of the file

    @property
    def key(self) -> str:
        """A name that stays the same if other parts of the file change."""
        parts = (self.file, self.function, self.kind, self.before, self.after, str(self.number))
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]

    def apply(self, source: bytes) -> bytes:
        """The mutated file."""
        return source[: self.start] + self.text.encode() + source[self.stop :]


def mutants_of(source: bytes, file: str) -> list[Mutant]:
    """Every mutant of a file, in the order of its lines."""
    starts = [0]
    for row in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(row))
    found: list[Mutant] = []
    seen: dict[tuple[str, ...], int] = {}
    edits = _edits(ast.parse(source))
    for node, function, kind, text in sorted(edits, key=lambda e: (e[0].lineno, e[0].col_offset, e[2], e[3])):
        start = starts[node.lineno - 1] + node.col_offset
        stop = starts[(node.end_lineno or 1) - 1] + (node.end_col_offset or 0)
        lost = "\n" * source[start:stop].count(b"\n")
        plain = isinstance(node, ast.stmt) or (text[:1].isalnum() and text.replace(".", "").isalnum() and not lost)
        text = f"{text}{lost}" if plain else f"({text}{lost})"
        before = source[starts[node.lineno - 1] : starts[node.lineno]].decode().strip()
        end = source.find(b"\n", stop)
        after = (source[starts[node.lineno - 1] : start] + text.encode() + source[stop:end]).decode()
        after = after.partition("\n")[0].strip()
        same = (function, kind, before, after)
        seen[same] = seen.get(same, -1) + 1
        found.append(Mutant(file, function, kind, node.lineno, before, after, start, stop, text, seen[same]))
    return found


Edit = tuple[ast.expr | ast.stmt, str, str, str]  # what is replaced, in which function, the kind of mutation, the text


def _edits(tree: ast.Module) -> Iterator[Edit]:
    for name, statement in _statements(tree.body, ""):
        for kind, text in _statement(statement):
            yield statement, name, kind, text
        for expression in _expressions(statement):
            for node, kind, new in _mutations(expression):
                if ast.unparse(new) != ast.unparse(node):
                    yield node, name, kind, ast.unparse(new)


def _statements(body: list[ast.stmt], name: str) -> Iterator[tuple[str, ast.stmt]]:
    """Every statement that is executed, with the function or the module's variable that it belongs to."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _statements(node.body, f"{name}.{node.name}" if name else node.name)
        elif not isinstance(node, ast.Import | ast.ImportFrom | ast.Raise | ast.Assert):
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            here = name or (ast.unparse(target) if target is not None else "module")
            if here != "__all__" and not (isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)):
                yield here, node
                for block in ("body", "orelse", "finalbody"):
                    yield from _statements(getattr(node, block, []), name)
                for handler in getattr(node, "handlers", []):
                    yield from _statements(handler.body, name)


def _expressions(statement: ast.stmt) -> Iterator[ast.expr]:
    """A statement's own expressions, without those of the statements inside it and without annotations."""
    refuses = isinstance(statement, ast.If) and all(
        isinstance(x, ast.Raise) or (isinstance(x, ast.Expr) and _checks(x.value)) for x in statement.body
    )
    if refuses or (isinstance(statement, ast.Expr) and _checks(statement.value)):
        return
    for field, value in ast.iter_fields(statement):
        if field not in ("annotation", "body", "orelse", "finalbody", "handlers"):
            for one in value if isinstance(value, list) else [value]:
                for x in (one.context_expr,) if isinstance(one, ast.withitem) else (one,):
                    if isinstance(x, ast.expr) and not (isinstance(x, ast.Constant) and isinstance(x.value, str)):
                        yield x


def _statement(node: ast.stmt) -> Iterator[tuple[str, str]]:
    """Mutations of a whole statement: updates in place and calls for their effect."""
    if isinstance(node, ast.AugAssign):
        yield "removed", "pass"
        if type(node.op) in ARITHMETIC:
            new = copy.copy(node)
            new.op = ARITHMETIC[type(node.op)]()
            yield "arithmetic", ast.unparse(new)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call) and not _checks(node.value):
        name = ast.unparse(node.value.func)
        yield "barrier" if BARRIER.search(name) else "removed", "pass"


def _checks(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1].startswith(("check", "_check"))


def _mutations(node: ast.expr) -> Iterator[tuple[ast.expr, str, ast.expr]]:
    """Every mutation of an expression and of those inside it."""
    if isinstance(node, ast.JoinedStr):
        return
    for kind, new in _of_one(node):
        yield node, kind, new
    for child in ast.iter_child_nodes(node):
        inner = child.value if isinstance(child, ast.keyword) else child
        if isinstance(inner, ast.comprehension):
            for part in (inner.iter, *inner.ifs):
                yield from _mutations(part)
        elif isinstance(inner, ast.expr):
            yield from _mutations(inner)


def _of_one(node: ast.expr) -> Iterator[tuple[str, ast.expr]]:
    if isinstance(node, ast.BinOp):
        if isinstance(node.op, ast.FloorDiv):
            yield "bound", ast.BinOp(node, ast.Add(), ast.Constant(1))
        elif type(node.op) in ARITHMETIC:
            yield "arithmetic", _with(node, op=ARITHMETIC[type(node.op)]())
    elif isinstance(node, ast.Compare):
        for i, operator in enumerate(node.ops):
            changed = [*node.ops[:i], COMPARISONS[type(operator)](), *node.ops[i + 1 :]]
            yield "comparison", _with(node, ops=changed)
    elif isinstance(node, ast.BoolOp):
        yield "boolean", _with(node, op=ast.Or() if isinstance(node.op, ast.And) else ast.And())
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not | ast.USub):
        yield "boolean" if isinstance(node.op, ast.Not) else "negation", node.operand
    elif isinstance(node, ast.IfExp):
        yield "boolean", _with(node, body=node.orelse, orelse=node.body)
    elif isinstance(node, ast.Constant):
        yield from _constant(node)
    elif isinstance(node, ast.Call):
        yield from _call(node)


def _constant(node: ast.Constant) -> Iterator[tuple[str, ast.expr]]:
    value = node.value
    if isinstance(value, bool):
        yield "boolean", ast.Constant(not value)
    elif isinstance(value, int):
        yield "bound", ast.Constant(value + 1)
        if value > 0:
            yield "bound", ast.Constant(value - 1)
    elif isinstance(value, float):
        yield "constant", ast.Constant(2 * value if value else 1.0)


def _call(node: ast.Call) -> Iterator[tuple[str, ast.expr]]:
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    builder = isinstance(function, ast.Attribute) and ast.unparse(function.value).split(".")[-1] in ("b", "builder")
    for kind, table, applies in (
        ("extreme", EXTREMES, True),
        ("function", FUNCTIONS, isinstance(function, ast.Attribute)),
        ("arithmetic", BUILDER, builder),
    ):
        if name in table and applies:
            renamed = copy.deepcopy(function)
            setattr(renamed, "attr" if isinstance(function, ast.Attribute) else "id", table[name])
            yield kind, _with(node, func=renamed)
    first = node.args[0] if node.args else None
    if builder and isinstance(first, ast.Constant) and first.value in SIGNS:
        yield "comparison", _with(node, args=[ast.Constant(SIGNS[str(first.value)]), *node.args[1:]])
    if name in ORDERED and len(node.args) >= ORDERED[name] + 2:
        i = ORDERED[name]
        yield "order", _with(node, args=[*node.args[:i], node.args[i + 1], node.args[i], *node.args[i + 2 :]])


def _with(node: ast.expr, **fields: object) -> ast.expr:
    """A copy of a node in which some fields are others."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new
