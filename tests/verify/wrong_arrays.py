"""One case of an adapter, without the kit around it."""

import numpy as np

from gta_ref.verify import vectors
from gta_ref.verify.compare import compare
from gta_ref.verify.exchange import to_numpy


def wrong_arrays(impl, name, dtype="float32"):
    """Names of the arrays of a case that are wrong or, if they are required, missing."""
    vector = vectors.make(name, dtype)
    found = impl({key: np.array(x) for key, x in vector.inputs.items()}, vector.settings)
    given = {key: to_numpy(x, key) for key, x in found.items()}
    wanted = [key for key in vector.required if getattr(impl, "backward", True) or not key.startswith("d_")]
    return [finding.name for finding in compare(vector, given, wanted) if finding.kind != "ok"]
