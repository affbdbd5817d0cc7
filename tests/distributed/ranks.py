"""Checks that run under ``mpiexec -n R python -m tests.distributed.ranks NAME``; rank 0 prints what it found as JSON.

Every rank makes the same inputs from a seed, computes its part, and rank 0 compares the whole with one process.
"""

import json
import sys
from typing import Any

import ml_dtypes
import numpy as np

from gta_ref import threads
from gta_ref.core import Mask, attention_backward, attention_forward
from gta_ref.distributed import ring
from gta_ref.distributed.costs import ring_bytes
from gta_ref.distributed.decode import new_caches
from gta_ref.distributed.messages import world
from gta_ref.distributed.ring import Ring
from gta_ref.distributed.training import added, context_parallel, data_parallel
from gta_ref.lm import model
from gta_ref.mechanisms import load
from gta_ref.ops.cross_entropy import IGNORE
from tests.support import random_inputs, small_configs

comm = world()
RANK, RANKS = comm.Get_rank(), comm.Get_size()
CHECKS: dict[str, Any] = {}

# B, n_q, n_k, n_v, N, N, d_k, d_v; 24 is a multiple of the parts of 1, 2, 3 and 4 ranks in both layouts
SIZES = {
    "gta": (2, 4, 1, 1, 48, 48, 8, 12),
    "heads differ": (2, 6, 2, 3, 24, 24, 5, 7),
    "one head": (1, 1, 1, 1, 24, 24, 4, 4),
    "a head each": (1, 4, 4, 4, 24, 24, 8, 8),
}
MASKS = {
    "causal": {},
    "not causal": {"causal": False},
    "left padding": {"k_start": [0, 17]},
    "ragged": {"k_stop": [24, 5]},
    "both": {"k_start": [3, 9], "k_stop": [20, 11]},
    "not causal, padded": {"causal": False, "k_start": [2, 0], "k_stop": [24, 13]},
    "blind": {"q_start": [-7, 4], "k_start": [0, 20]},
    "empty": {"k_stop": [0, 24]},
}


def check(function):
    CHECKS[function.__name__] = function
    return function


def both_passes(ring, arrays):
    """z, lse, dq, dk and dv of the whole sequences, gathered, in every rank."""
    q, k, v, dz, dlse = (ring.cut(x, 2) for x in arrays)
    z, lse, saved = attention_forward(q, k, v, engine=ring)
    return [ring.gather(x, 2) for x in (z, lse, *attention_backward(dz, saved, dlse=dlse))]


def alone(arrays, mask, engine, dtype=None):
    q, k, v, dz, dlse = arrays if dtype is None else (x.astype(dtype) for x in arrays)
    z, lse, saved = attention_forward(q, k, v, mask=mask, engine=engine)
    return [z, lse, *attention_backward(dz, saved, dlse=dlse)]


def cases():
    for size, sizes in SIZES.items():
        for name, bounds in MASKS.items():
            if sizes[0] == 1:
                bounds = {key: x[0] if isinstance(x, list) else x for key, x in bounds.items()}
            yield f"{size}, {name}", sizes, Mask(**bounds)


@check
def attention():
    """The largest error of each case against one process, in float64, and whether other runs have the same bits."""
    found = {}
    ring.BLOCK = 5  # queries of a rank make several blocks, the last of which may be shorter
    for name, sizes, mask in cases():
        arrays = random_inputs(np.random.default_rng(1), sizes, np.float64)
        want = alone(arrays, mask, "reference")
        for engine in ("reference", "numba"):
            for layout in ("contiguous", "zigzag"):
                results = [
                    both_passes(Ring(comm, sizes[4], layout=layout, mask=mask, inner=engine, exchange=exchange), arrays)
                    for exchange in ("ring", "gather", "ring")
                ]
                error = 0.0
                for x, y in zip(results[0], want, strict=True):
                    finite = np.isfinite(y)
                    same = x.shape == y.shape and x.dtype == y.dtype and (x[~finite] == y[~finite]).all()
                    error = max(error, float(np.abs(x[finite] - y[finite]).max(initial=0)) if same else np.inf)
                bits = [[x.tobytes() for x in result] for result in results]
                found[f"{name}, {engine}, {layout}"] = [error, bits[0] == bits[1] == bits[2]]
    return found


@check
def storage():
    """float32, bfloat16 and float16: errors of the ranks and of one process against float64."""
    found = {}
    for dtype in (np.float32, ml_dtypes.bfloat16, np.float16):
        arrays = random_inputs(np.random.default_rng(2), (2, 4, 2, 1, 96, 96, 16, 24), dtype)
        mask = Mask(k_start=[0, 31])
        exact = alone(arrays, mask, "reference", np.float64)
        for layout in ("contiguous", "zigzag"):
            ours, plain = (
                both_passes(Ring(comm, 96, layout=layout, mask=mask), arrays),
                alone(arrays, mask, "reference"),
            )
            found[f"{np.dtype(dtype).name}, {layout}"] = [
                [
                    float(np.abs((x.astype(np.float64) - y)[np.isfinite(y)]).max())
                    for x, y in zip(xs, exact, strict=True)
                ]
                + [[str(x.dtype) for x in xs]]
                for xs in (ours, plain)
            ]
    return found


@check
def layers():
    """A layer of every mechanism, with gradients, and a language model's loss: relative errors against one process."""
    found = {}
    for name, config in small_configs(24, 4, 8).items():
        module = load(name)
        rng = np.random.default_rng(3)
        params = {
            key: rng.standard_normal(shape) * shape[0] ** -0.5 for key, shape in module.param_shapes(config).items()
        }
        x, dout = rng.standard_normal((2, 2, 24, 24))
        mask = Mask(k_start=[0, 13])
        out, saved = module.forward(params, x, config, mask=mask, engine="reference")
        dx, grads = module.backward(dout, saved)
        ring = Ring(comm, 24, mask=mask, inner="reference")
        own, saved = module.forward(params, ring.cut(x), config, positions=ring.positions(2), engine=ring)
        own_dx, own_grads = module.backward(ring.cut(dout), saved)
        _, own_grads = added(comm, 0.0, own_grads)
        pairs = [(ring.gather(own), out), (ring.gather(own_dx), dx), *((own_grads[key], grads[key]) for key in grads)]
        found[name] = relative(pairs)
    return found


def relative(pairs):
    return max(float(np.abs(x - y).max() / np.abs(y).max()) for x, y in pairs)


def language_model(tied=True):
    attention = load("gta").Config(hidden_size=24, n_heads=4, head_dim=6, n_q=2, n_k=1, n_c=1, latent_dim=12)
    return model.Config(
        vocab_size=19, n_layers=2, intermediate_size=30, attention=attention, mechanism="gta", tied=tied
    )


def both_ways(kind, params, ids, targets, config):
    if kind == "context":
        return context_parallel(params, ids, targets, config, Ring(comm, 24, inner="reference"))
    return data_parallel(comm, params, ids, targets, config, "reference")


@check
def losses():
    """Loss and gradient with sequences spread over ranks, and with a batch: relative errors against one process."""
    found = {}
    config = language_model()
    rng = np.random.default_rng(4)
    params = model.init(config, rng, "float64")
    ids = rng.integers(0, 19, (5, 24))
    targets = np.roll(ids, -1, axis=1)
    targets[:, -1] = IGNORE
    targets[1, 3:] = IGNORE
    targets[2] = IGNORE
    for name, wanted in (("all", targets), ("few", np.where(np.arange(24) < 5, targets, IGNORE))):
        loss, saved = model.loss_forward(params, ids, config, targets=wanted, engine="reference")
        grads = model.loss_backward(saved)
        for kind in ("context", "data"):
            (own_loss, own), (again_loss, again) = (both_ways(kind, params, ids, wanted, config) for _ in range(2))
            bits = own_loss == again_loss and all(own[key].tobytes() == again[key].tobytes() for key in own)
            every = comm.allgather([own_loss, *(own[key].tobytes() for key in own)])
            same = all(one == every[0] for one in every)
            error = relative([(np.array([own_loss]), np.array([loss])), *((own[key], grads[key]) for key in grads)])
            found[f"{kind}, {name}"] = [error, bits, same]
    return found


@check
def decoding():
    """Logits of a language model whose caches are spread over ranks, against one process; the bytes that were sent."""
    found = {}
    config = language_model()
    rng = np.random.default_rng(5)
    params = model.init(config, rng, "float64")
    ids, k_start = rng.integers(0, 19, (2, 24)), [0, 7]
    for chunks in ([24], [9, 1, 1, 6, 1, 1, 5], [1] * 24):
        plain = model.new_caches(config, 2, 24, "float64", k_start)
        spread = new_caches(comm, config, 2, 24, "float64", k_start, inner="reference")
        start, errors = 0, []
        for n in chunks:
            part = ids[:, start : start + n]
            want = model.decode(params, part, plain, config, engine="reference")
            errors.append(relative([(model.decode(params, part, spread, config, engine=spread[0].engine), want)]))
            start += n
        held = comm.allgather(spread[0].held()["c"])
        whole = np.concatenate(held, axis=2)
        sent = sum(cache.engine.sent for cache in spread[:1])
        found[str(chunks)] = [max(errors), relative([(whole, plain[0].held()["c"])]), sent, [x.shape[2] for x in held]]
    return found


@check
def sent():
    """Bytes that this rank has sent in a forward and a backward of one layer, and by the formula."""
    found = {}
    for name, config in small_configs(24, 4, 8).items():
        module, layer = load(name), load(name).structure(config)
        for dtype, itemsize in ((np.float32, 4), (ml_dtypes.bfloat16, 2)):
            params = module.init(config, np.random.default_rng(0), np.dtype(dtype).name)
            x = np.random.default_rng(1).standard_normal((1, 48, 24)).astype(dtype)
            for exchange in ("ring", "gather"):
                ring = Ring(comm, 48, inner="reference", exchange=exchange)
                out, saved = module.forward(params, ring.cut(x), config, positions=ring.positions(1), engine=ring)
                forward = ring.sent
                module.backward(out, saved)
                counted = forward, ring.sent - forward
                formula = [ring_bytes(layer, 48, RANKS, itemsize=itemsize, backward=b) for b in (False, True)]
                found[f"{name}, {np.dtype(dtype).name}, {exchange}"] = [counted, formula]
    return found


if __name__ == "__main__":
    threads.set_threads(1)
    result = CHECKS[sys.argv[1]]()
    if RANK == 0:
        print(json.dumps(result))
