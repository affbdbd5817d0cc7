"""Find and read dumps: files of arrays that a program in any language has written, safetensors or .npz.

A dump has the place and the name of a file of vectors, with the suffix .safetensors or .npz, and arrays with plain
names such as ``z``. Or one file has all cases, with names such as ``attention/plain/z``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gta_ref.files import one_line, read_tensors
from gta_ref.ops import as_dtype

SUFFIXES = (".safetensors", ".npz")
_NOT_READ = (".pt", ".pth", ".bin", ".pkl", ".pickle", ".npy")  # most of them run code of the file when they are read
_ALIASES = {
    "z": ("o", "out", "output", "context", "attnoutput"),
    "out": ("o", "y", "output"),
    "map": ("p", "attn", "probs", "weights", "attention"),
    "scores": ("s", "logits"),
    "lse": ("logsumexp", "softmaxlse"),
    "logits": ("out", "output"),
}

Tensors = dict[str, np.ndarray]


class AbsentDumpError(ValueError):
    """Raised if there is no dump for a case; the message names the file and, if there is one, what is there instead."""


@dataclass(frozen=True)
class Dumps:
    """A folder of dumps, or one file that has all of them.

    Parameters
    ----------
    path : path
    stems : collection of str
        The paths of all files of vectors in their folder, without the suffix.

    Raises
    ------
    ValueError
        If there is no such folder or file, or it is a file of another format.
    """

    path: Path
    stems: Collection[str]

    def __post_init__(self) -> None:
        if not self.path.exists():
            raise ValueError(f"{self.path}: no such folder")
        if not self.path.is_dir() and self.path.suffix not in SUFFIXES:
            raise ValueError(f"{self.path}: expected a folder, or a file {' or '.join(SUFFIXES)}")

    def read(self, stem: str, names: Collection[str] = ()) -> tuple[Tensors, Mapping[str, str]]:
        """The arrays by name, and the metadata, of the dump for a file of vectors.

        Parameters
        ----------
        stem : str
            One of `stems`.
        names : collection of str
            Other names that the arrays of this case may begin with in a file of all cases, such as ``attention/plain``.

        Raises
        ------
        AbsentDumpError
            If there is none.
        ValueError
            If the file is damaged, or there are two.
        """
        if not self.path.is_dir():
            return self._part((*names, stem)), {}
        found = [path for suffix in SUFFIXES if (path := self.path / f"{stem}{suffix}").is_file()]
        if not found:
            raise AbsentDumpError(f"{Path(stem).name}.safetensors was not given{self._instead(stem)}")
        if len(found) > 1:
            raise ValueError(f"there are {found[0].name} and {found[1].name}; expected one of them")
        return read_arrays(found[0])

    @cached_property
    def _whole(self) -> Tensors:
        return read_arrays(self.path)[0]

    def _part(self, names: Collection[str]) -> Tensors:
        for name in names:
            part = {key.removeprefix(f"{name}/"): x for key, x in self._whole.items() if key.startswith(f"{name}/")}
            if part:
                return part
        first = next(iter(names))
        near = _nearest(first, {key.rpartition("/")[0] for key in self._whole if "/" in key})
        hint = f"; did you mean that by {one_line(near)}/…?" if near else ""
        raise AbsentDumpError(f"{self.path.name} has no arrays {first}/…{hint}")

    def _instead(self, stem: str) -> str:
        """What is there in place of a dump, as the end of a message."""
        folder, name = (self.path / stem).parent, Path(stem).name
        if not folder.is_dir():
            return ""
        others = [path.name for path in sorted(folder.iterdir()) if not path.name.startswith(".")]
        unread = next((o for o in others if o.startswith(f"{name}.") and Path(o).suffix in _NOT_READ), None)
        if unread is not None:
            how = "safetensors (safetensors.torch.save_file) or .npz (numpy.savez)"
            return f"; {one_line(unread)} is of a format that is not read: write {how}"
        free = {Path(o).stem: o for o in others if Path(o).suffix in SUFFIXES}
        near = _nearest(name, free.keys() - {Path(other).name for other in self.stems})
        return "" if near is None else f"; did you mean that by {one_line(free[near])}?"


def read_arrays(path: Path) -> tuple[Tensors, Mapping[str, str]]:
    """Read the arrays and the metadata of a .safetensors or .npz file; bfloat16, which .npz lacks, comes as its bits.

    Raises
    ------
    ValueError
        If the file is damaged, or has arrays of Python objects; the message names it.
    """
    if path.suffix != ".npz":
        return read_tensors(path)
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in file.files}
    except OSError:
        raise
    except Exception as error:  # NumPy lets those of zipfile, zlib and others pass
        raise ValueError(f"{path}: not a complete .npz file ({one_line(error)})") from None
    # NumPy writes the dtype of ml_dtypes as two bytes without a meaning
    return {name: x.view(as_dtype("bfloat16")) if x.dtype == np.dtype("V2") else x for name, x in found.items()}, {}


def hints(unknown: Iterable[str], absent: Collection[str]) -> list[str]:
    """For every name that is nearly one of those absent, a hint such as "dq: did you mean d_q?"."""
    found, left = [], list(absent)
    for name in unknown:
        near = meant(name, left)
        if near is not None:
            found.append(f"{one_line(name)}: did you mean {near}?")
            left.remove(near)
    return found


def meant(name: str, among: Collection[str]) -> str | None:
    """Which of some names is probably meant by another one, such as d_q by dq, grad_q or q.grad."""
    plain = _plain(name)
    for one in among:
        gradient = one.startswith("d_")
        rest = _plain(one.removeprefix("d_"))
        others = _ALIASES.get(one.removeprefix("d_"), ())
        forms = {form for base in (rest, *others) for form in _forms(base, gradient)}
        if plain in forms:
            return one
    return _nearest(name, among)


def _forms(base: str, gradient: bool) -> tuple[str, ...]:
    return (f"d{base}", f"grad{base}", f"{base}grad", f"{base}gradient") if gradient else (base,)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def _nearest(name: str, among: Collection[str]) -> str | None:
    by_plain = {_plain(one): one for one in among}
    near = difflib.get_close_matches(_plain(name), by_plain, 1, cutoff=0.8)
    return by_plain[near[0]] if near else None
