"""Write the course's files into a folder, without touching a file that is there already."""

from __future__ import annotations

import filecmp
import os
import shutil
from pathlib import Path

from gta_ref.course.contents import contents
from gta_ref.course.place import root
from gta_ref.files import atomic_path

README = "README.md"  # beside this file


def write(folder: str | os.PathLike[str], solutions: bool = False) -> list[Path]:
    """Write the course.

    Parameters
    ----------
    folder : str or path
        Created if it does not exist. A file in it that is the same as the course's stays as it is.
    solutions : bool
        Whether the exercises' solutions are written too.

    Returns
    -------
    written : list of Path
        The files that were not there before.

    Raises
    ------
    ValueError
        If something else is where a file of the course belongs; then nothing is written.
    OSError
        If a folder or file cannot be made.
    """
    folder = Path(folder)
    source = root()
    sources = {Path(README): Path(__file__).parent / README}
    sources |= {name: source / name for name in contents(source, solutions)}
    there = {name for name in sources if os.path.lexists(folder / name)}
    changed = {name for name in there if not _same(sources[name], folder / name)}
    parents = {parent for name in sources for parent in name.parents}
    changed |= {name for name in parents if os.path.lexists(folder / name) and not (folder / name).is_dir()}
    if changed:
        first = ", ".join(str(folder / name) for name in sorted(changed)[:3])
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise ValueError(f"nothing was written, because other files are there: {first}{more}; name a new folder")
    new = [name for name in sources if name not in there]
    for name in new:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        with atomic_path(folder / name) as temporary:
            shutil.copyfile(sources[name], temporary)
    return [folder / name for name in new]


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and filecmp.cmp(one, other, shallow=False)
