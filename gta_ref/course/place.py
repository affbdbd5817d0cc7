"""Where the course's files are: in the tree of a clone, or in the installed package."""

from __future__ import annotations

from pathlib import Path

from gta_ref.errors import check_type

PACKED = Path(__file__).parent / "files"  # only in a wheel
TREE = Path(__file__).parents[2]


def root() -> Path:
    """Return the folder that holds ``notebooks`` and ``docs``.

    Raises
    ------
    ValueError
        If the files are neither in the package nor in a clone around it.
    """
    for folder in (PACKED, TREE):
        if (folder / "notebooks").is_dir() and (folder / "docs").is_dir():
            return folder
    raise ValueError(f"the course's files are missing: neither {PACKED} nor {TREE} has notebooks/ and docs/")


def path(name: str) -> Path:
    """Return the path of a file or folder of the course, such as ``docs/studies``.

    Parameters
    ----------
    name : str
        Relative to the root of a clone, with ``/`` between its parts.

    Raises
    ------
    ValueError
        If the course has no such file or folder, or `name` is no str.
    """
    check_type("name", name, str, "the name of a file or folder")
    found = root() / name
    if not found.exists():
        raise ValueError(f"name={name!r} must be a file or folder of the course; there is no {found}")
    return found
