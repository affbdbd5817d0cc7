"""Compare what a contestant of ``gta-ref bench gpu`` computed with float64 on the CPU."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from gta_ref.bench.gpu_cases import Case, allowed
from gta_ref.bench.rows import BY_QUERY, at_both_ends, by_definition, zero_elsewhere
from gta_ref.ops.arrays import Array

Arrays = tuple[Any, ...]


class Check:
    """The exact results of one case, for some query rows.

    Attributes
    ----------
    inputs : tuple
        q, k, c and dz on the GPU. dz is 0 except in the rows that are checked, so that dk and dv are exact as a whole.
    exact : dict of str to array
        Results by name, in float64.
    """

    def __init__(self, case: Case, arrays: Arrays) -> None:
        import cupy

        self.case, self.rows = case, at_both_ends(case.queries)
        q, k, c, dz = (_to_host(x) for x in arrays)
        self.inputs: Arrays = (*arrays[:3], cupy.asarray(zero_elsewhere(dz, self.rows)))
        self.exact = by_definition((q, k, c, dz), self.rows, np.float64, case.backward)

    def compare(self, results: Mapping[str, Any]) -> dict[str, Any]:
        """Compare the results by name with the exact ones.

        Returns
        -------
        found : dict
            errors: name → norm of the error ÷ norm of the result, where a NaN or an infinity counts as 0;
            allowed: name → the largest error that rounding explains; not_finite: name → the number of NaNs and
            infinities in all rows, checked or not; wrong: whether any result is further off or not finite.

        Raises
        ------
        ValueError
            If a result has another shape than the exact one.
        """
        errors, not_finite = {}, {}
        for name, result in results.items():
            got, truth = _to_host(result).astype(np.float64), self.exact[name]
            finite = np.isfinite(got)
            not_finite[name] = int(got.size - np.count_nonzero(finite))
            got = np.where(finite, got, 0)
            if name in BY_QUERY:
                got = got[:, :, self.rows]
            if got.shape != truth.shape:
                raise ValueError(f"{name} has shape {got.shape}; expected {truth.shape}")
            errors[name] = float(np.linalg.norm(got - truth) / (np.linalg.norm(truth) or 1))
        limits = {name: allowed(self.case, name) for name in errors}
        wrong = any(not_finite.values()) or any(errors[name] > limits[name] for name in errors)
        return {"errors": errors, "allowed": limits, "not_finite": not_finite, "wrong": wrong}


def _to_host(x: Any) -> Array:
    if hasattr(x, "detach"):
        return np.asarray(x.detach().float().cpu().numpy())  # PyTorch cannot turn bfloat16 into an array of NumPy
    return np.asarray(x.get() if hasattr(x, "get") else x)


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Within the block, every array that CuPy allocates is filled with NaN.

    An element that a kernel should have written and did not is then found, whatever the memory was used for before.
    """
    import cupy

    pool = cupy.get_default_memory_pool()

    def allocate(size: int) -> Any:
        memory = pool.malloc(size)
        if size:
            memory.memset_async(0xFF, size)  # NaN in float32 and in bfloat16
        return memory

    with cupy.cuda.using_allocator(allocate):
        yield
