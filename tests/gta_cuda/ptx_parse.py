"""Read the text of a PTX module with one kernel: its parameters, shared arrays, registers and instructions.

Only the part of the language that NVVM and the project's inline PTX use is known; anything else is an error.
"""

import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

KINDS = {
    "pred": np.dtype(bool),
    **{f"{letter}{bits}": np.dtype(f"u{bits // 8}") for letter in "bu" for bits in (8, 16, 32, 64)},
    **{f"s{bits}": np.dtype(f"i{bits // 8}") for bits in (8, 16, 32, 64)},
    "f32": np.dtype("f4"),
    "f64": np.dtype("f8"),
}
# arrays in shared memory begin here; on sm_90, the system keeps the first 1024 bytes for itself
SHARED_BASE = 1024
LOCAL_BASE = 16


class Unknown(Exception):  # noqa: N818
    """Something that the machine does not implement."""


class Number:
    """A constant, of whatever type an instruction reads it as."""

    def __init__(self, bits, is_float=False):
        self.bits, self.is_float, self.made = bits, is_float, {}

    def of(self, kind):
        found = self.made.get(kind)
        if found is None:
            size = 8 * kind.itemsize
            if kind.kind == "b":
                found = np.bool_(self.bits)
            elif kind.kind == "f" and not self.is_float:
                raise Unknown(f"the integer {self.bits} as a floating-point number")
            else:
                found = np.array([self.bits & ((1 << size) - 1)], f"u{kind.itemsize}").view(kind)[0]
            self.made[kind] = found
        return found


@dataclass(frozen=True)
class Special:
    """A register that the system sets, such as %tid.x."""

    name: str


@dataclass(frozen=True)
class Not:
    """A predicate that is read negated."""

    register: str


@dataclass(frozen=True)
class Address:
    """[base + offset]; the base is a register, a Number or a parameter."""

    base: object
    offset: int


@dataclass(frozen=True)
class Parameter:
    """An argument of the kernel: where it lies among the bytes of all arguments."""

    at: int
    kind: np.dtype


class Instruction(NamedTuple):
    """One instruction; an operand is a register (str), one of the classes above, or a tuple of operands."""

    name: str
    operands: tuple
    guard: object  # register, Not or None: only threads for which it is true execute the instruction
    line: int
    text: str


class Program:
    """A parsed kernel.

    `code`: instructions; `labels`: name → index into `code`; `registers`: name → NumPy dtype; `parameters`: in order;
    `shared` and `local`: bytes of the block's shared memory (with SHARED_BASE) and of a thread's local memory.
    """

    def __init__(self, text, dynamic_shared=0):
        self.code, self.labels, self.registers, self.parameters = [], {}, {}, []
        self.shared, self.local, self.dynamic = SHARED_BASE, LOCAL_BASE, dynamic_shared
        self.names, self.scopes = {}, []
        text = re.sub(r"//[^\n]*|/\*.*?\*/", lambda m: "\n" * m[0].count("\n"), text, flags=re.DOTALL)
        found = re.search(r"\.entry\s+[\w$]+\s*\((.*?)\)[^{]*\{", text, re.DOTALL)
        if found is None or len(re.findall(r"\.(?:entry|func)\b", text)) != 1:
            raise Unknown("a module that is not one kernel without other functions")
        for line in text[: found.start()].splitlines():
            self._outside(line.strip())
        self._parameters(found[1])
        self._body(text, found.end() - 1)
        for i, one in enumerate(self.code):
            if one.name.startswith("bra"):
                target = next((x for x in one.operands if x in self.labels), None)
                if target is None:
                    raise Unknown(f"the label of {one.text}")
                self.code[i] = one._replace(operands=(self.labels[target],))

    def _outside(self, line):
        """A shared array; one without a size is the dynamic one."""
        found = re.fullmatch(r"(?:\.visible |\.extern )?\.shared \.align (\d+) \.b8 ([\w$]+)\[(\d*)\];", line)
        if found:
            alignment, name, size = found.groups()
            self.shared += -self.shared % int(alignment)
            self.names[name] = Number(self.shared)
            self.shared += int(size or self.dynamic)
        elif line and not re.match(r"\.(version|target|address_size|visible\s*$|common \.global|global )", line):
            raise Unknown(f"the declaration {line!r}")

    def _parameters(self, signature):
        at = 0
        for one in filter(None, (x.strip() for x in signature.split(","))):
            found = re.fullmatch(r"\.param \.(\w+) ([\w$]+)", one)
            if not found:
                raise Unknown(f"the parameter {one!r}")
            kind = KINDS[found[1]]
            at += -at % kind.itemsize
            self.names[found[2]] = Parameter(at, kind)
            self.parameters.append(self.names[found[2]])
            at += kind.itemsize

    def _body(self, text, at):
        pieces = re.compile(r"\s*(?:([\w$]+):(?!:)|([{}])|([^;]+);)")
        line, self.blocks = text.count("\n", 0, at) + 1, []  # the last, of the blocks that are open now
        while True:
            found = pieces.match(text, at)
            if found is None:
                raise Unknown(f"line {line}: {text[at : at + 60]!r}")
            first = line + text.count("\n", at, found.start(found.lastindex))
            line += text.count("\n", at, found.end())
            at = found.end()
            label, brace, statement = found.groups()
            if label:
                self.labels[self._local(label)] = len(self.code)
            elif brace == "{":
                self.scopes.append({})
                self.blocks.append(at)
            elif brace == "}":
                self.scopes.pop()
                self.blocks.pop()
                if not self.scopes:
                    return
            else:
                self._statement(" ".join(statement.split()), first)

    def _local(self, name):
        """A name of its own for what inline PTX declares in a block within the body."""
        return name if len(self.blocks) == 1 else f"{name}@{self.blocks[-1]}"

    def _statement(self, text, line):
        if text.startswith(".reg"):
            _, kind, names = text.split(None, 2)
            for name in names.split(","):
                name, _, count = name.strip().partition("<")
                for i in [""] if not count else range(int(count.rstrip(">"))):
                    unique = self.scopes[-1][f"{name}{i}"] = self._local(f"{name}{i}")
                    self.registers[unique] = KINDS[kind[1:]]
        elif text.startswith(".local"):
            alignment, name, size = re.fullmatch(r"\.local \.align (\d+) \.b8 ([\w$]+)\[(\d+)\]", text).groups()
            self.local += -self.local % int(alignment)
            self.names[name] = Number(self.local)
            self.local += int(size)
        elif not re.match(r"\.(loc|pragma|file)\b", text):
            guard, rest = text[1:].split(None, 1) if text[0] == "@" else (None, text)
            name, _, rest = rest.partition(" ")
            pieces = [x.strip() for x in re.findall(r"\{[^}]*\}|\[[^\]]*\]|[^,{}\[\]]+", rest) if x.strip()]
            if name.startswith("bra"):
                operands = (self._local(pieces[0]), pieces[0])
            else:
                operands = tuple(map(self._operand, pieces))
            self.code.append(Instruction(name, operands, guard and self._operand(guard), line, text))

    def _operand(self, text):
        if text[0] == "{":
            return tuple(self._operand(x.strip()) for x in text[1:-1].split(","))
        if text[0] == "[":
            base, _, offset = text[1:-1].partition("+")
            return Address(self._operand(base.strip()), int(offset or 0))
        if text[0] == "!":
            return Not(self._operand(text[1:]))
        if "|" in text:
            return tuple(self._operand(x) for x in text.split("|"))
        for scope in reversed(self.scopes):
            if text in scope:
                return scope[text]
        if text in self.names:
            return self.names[text]
        if text == "_":
            return None
        if text[0] == "%":
            return Special(text)
        if re.fullmatch(r"0[fF][0-9a-fA-F]{8}|0[dD][0-9a-fA-F]{16}", text):
            return Number(int(text[2:], 16), True)
        if re.fullmatch(r"-?(0[xX][0-9a-fA-F]+|\d+)U?", text):
            return Number(int(text.rstrip("U"), 0))
        raise Unknown(f"the operand {text!r}")
