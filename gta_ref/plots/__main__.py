"""python -m gta_ref.plots [FOLDER]: make the drawings of the pages. Default folder: docs/images."""

from __future__ import annotations

import sys
from pathlib import Path

from gta_ref.plots.drawings import write

if __name__ == "__main__":
    for path in write(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/images")):
        print(path)
