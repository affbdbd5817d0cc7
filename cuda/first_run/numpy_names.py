"""Names that newer versions of NumPy have removed while numba-cuda still asks for them when it compiles.

Importing this module adds them to NumPy, for the programs of the first run only: the machine has the versions that it
has. numba-cuda 0.30.4 needs ``np.row_stack``, which NumPy 2.5 removed; without it, nothing can be compiled.
"""

from __future__ import annotations

import numpy as np

if not hasattr(np, "row_stack"):
    vars(np)["row_stack"] = np.vstack
