"""A decoder language model around any mechanism: embedding, blocks, RMSNorm, head; backward written out.

    x_0 = E[ids]     x_{l+1} = block_l(x_l)     logits = rmsnorm(x_L; g) W_head

W_head is Eᵀ if the head is tied to the embedding. The loss is the mean cross-entropy of the next token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gta_ref.cache import KVCache
from gta_ref.core import Mask
from gta_ref.core.engines import check_engine
from gta_ref.core.mask import as_mask
from gta_ref.errors import as_float, check_bool, check_shape, refuse
from gta_ref.lm import block
from gta_ref.lm.config import Config, init, param_shapes
from gta_ref.ops import (
    Array,
    cross_entropy_backward,
    cross_entropy_forward,
    embedding_backward,
    embedding_forward,
    linear_backward,
    linear_backward_input,
    linear_forward,
)
from gta_ref.ops.arrays import (
    Params,
    add,
    array_module,
    as_saved,
    check_config,
    check_cotangent,
    check_params_alone,
)
from gta_ref.ops.cross_entropy import IGNORE

__all__ = [
    "Config",
    "ModelSaved",
    "backward",
    "check_caches",
    "check_inputs",
    "decode",
    "forward",
    "init",
    "layer_traces",
    "loss_backward",
    "loss_forward",
    "new_caches",
    "param_shapes",
]


class ModelSaved(NamedTuple):
    """What forward saves for backward."""

    config: Config
    embedding: Any
    blocks: list[block.BlockSaved]
    rows: ModuleType  # see block.rows_by
    norm: Any
    head: Any


def forward(
    params: Params,
    ids: Array,
    config: Config,
    *,
    positions: Array | None = None,
    mask: Mask | None = None,
    engine: Any = "auto",
    need_saved: bool = True,
    last: bool = False,
) -> tuple[Array, ModelSaved | None]:
    """Logits of the next token at every position.

    Parameters
    ----------
    params : dict of str to array
        Named as in :func:`param_shapes`.
    ids : (B, N), integers
    config : Config
    positions, mask, engine, need_saved : as in a mechanism's forward
    last : bool
        Whether to compute the logits after the last token only, as is enough to continue a text: the head then needs
        1/N of its operations. Requires need_saved=False. Default False.

    Returns
    -------
    logits : (B, N, vocabulary), or (B, 1, vocabulary) with `last`
    saved : for :func:`backward`; None with need_saved=False
    """
    check_bool("need_saved", need_saved)
    check_bool("last", last)
    if last and need_saved:
        raise ValueError("last=True leaves nothing for backward; expected need_saved=False with it")
    check_engine(engine)
    as_mask(mask)
    check_inputs(params, ids, config)
    x, embedding = embedding_forward(ids, params["embed"])
    blocks = []
    for i in range(config.n_layers):
        x, saved = block.forward(
            block.select(params, f"layers.{i}."),
            x,
            config.module,
            config.layer(i),
            config.norm_eps,
            positions=positions,
            mask=mask,
            engine=engine,
            need_saved=need_saved,
        )
        if saved is not None:
            blocks.append(saved)
    rows = block.rows_by(engine, x)
    logits, norm, head = _head_forward(params, x[:, -1:] if last else x, config, rows)
    return logits, ModelSaved(config, embedding, blocks, rows, norm, head) if need_saved else None


def layer_traces(params: Params, ids: Array, config: Config) -> Iterator[dict[str, Array]]:
    """Run the blocks over texts, ids (B, N), and yield the attention's stages layer by layer.

    Stages are named as in the mechanism's `trace` and include the map (B, n_q, N, N). Only one layer's stages are held
    at a time.
    """
    check_inputs(params, ids, config)
    x, _ = embedding_forward(ids, params["embed"])
    for i in range(config.n_layers):
        trace: dict[str, Array] = {}
        layer = block.select(params, f"layers.{i}.")
        x, _ = block.forward(
            layer, x, config.module, config.layer(i), config.norm_eps, trace=trace, need_saved=False
        )  # (B, N, H)
        yield trace


def backward(dlogits: Array, saved: ModelSaved | None, *, frozen: bool = False) -> dict[str, Array]:
    """Gradient of Σ dlogits ⊙ logits by every parameter, under the parameters' names.

    With `frozen`, only the attention and the gains of the norms are trained: the gradients of the embedding, the head
    and the MLPs' matrices are neither computed nor returned.
    """
    saved = as_saved(saved, ModelSaved)
    check_bool("frozen", frozen)
    config = saved.config
    ids, _, dtype = saved.embedding
    check_cotangent("dlogits", dlogits, (*ids.shape, config.vocab_size), dtype, "logits")
    grads: dict[str, Array] = {}
    if frozen:
        d_normed = linear_backward_input(dlogits, saved.head)
    else:
        d_normed, d_head, _ = linear_backward(dlogits, saved.head)
    dx, grads["norm"] = saved.rows.rmsnorm_backward(d_normed, saved.norm)
    for i in reversed(range(config.n_layers)):
        dx, layer = block.backward(dx, saved.blocks[i], frozen=frozen)
        grads |= {f"layers.{i}.{name}": grad for name, grad in layer.items()}
    if not frozen:
        grads["embed"] = embedding_backward(dx, saved.embedding)
        if config.tied:
            grads["embed"] = add(grads["embed"], d_head.T)  # one matrix that is used in two places
        else:
            grads["head"] = d_head
    return {name: grads[name] for name in param_shapes(config) if name in grads}


def loss_forward(
    params: Params,
    ids: Array,
    config: Config,
    *,
    targets: Array | None = None,
    positions: Array | None = None,
    mask: Mask | None = None,
    engine: Any = "auto",
) -> tuple[Array, Any]:
    """Mean cross-entropy of the next token, in nats.

    Parameters
    ----------
    params, ids, config, positions, mask, engine : as in :func:`forward`
    targets : (B, N), integers, optional
        The token that follows each token, or -100 for a target that does not count. Default: ids shifted left by one;
        the last position of each sequence does not count.

    Returns
    -------
    loss : scalar array
    saved : for :func:`loss_backward`
    """
    _check_ids("ids", ids)
    if targets is not None:
        _check_ids("targets", targets)
        check_shape("targets", targets, ids.shape)
    else:
        targets = array_module(ids).full(ids.shape, IGNORE, dtype=np.int64)
        targets[:, :-1] = ids[:, 1:]
    logits, saved = forward(params, ids, config, positions=positions, mask=mask, engine=engine)
    loss, entropy = cross_entropy_forward(logits, targets)
    return loss, (entropy, saved)


def loss_backward(saved: Any, dloss: float = 1.0) -> dict[str, Array]:
    """Gradient of dloss · loss by every parameter."""
    if not isinstance(saved, tuple) or len(saved) != 2 or not isinstance(saved[1], ModelSaved):
        refuse("saved", saved, "what loss_forward returns")
    entropy, model = saved
    return backward(cross_entropy_backward(as_float("dloss", dloss), entropy), model)


def new_caches(
    config: Config, batch: int, capacity: int, dtype: Any = "float32", k_start: Any = None, like: Array | None = None
) -> list[KVCache]:
    """Return one empty cache per layer; the arguments are those of :class:`gta_ref.cache.KVCache`."""
    check_config(config, Config)
    structure = config.module.structure
    return [KVCache(structure(one).cached, batch, capacity, dtype, k_start, like) for one in config.layers]


def decode(
    params: Params,
    ids: Array,
    caches: Sequence[KVCache],
    config: Config,
    *,
    engine: Any = "auto",
    last: bool = False,
) -> Array:
    """Append tokens to the caches and return their logits (B, N_new, vocabulary).

    They are the logits that :func:`forward` over the whole text gives for these tokens; with `last`, only those after
    the last token, (B, 1, vocabulary). If an error is raised, all caches are left unchanged.
    """
    check_bool("last", last)
    check_engine(engine)
    check_inputs(params, ids, config)
    check_caches(caches, config.n_layers)
    before = [cache.length for cache in caches]
    try:
        x, _ = embedding_forward(ids, params["embed"])
        for i, cache in enumerate(caches):
            x = block.decode(
                block.select(params, f"layers.{i}."),
                x,
                cache,
                config.module,
                config.layer(i),
                config.norm_eps,
                engine=engine,
            )
        return _head_forward(params, x[:, -1:] if last else x, config, block.rows_by(engine, x))[0]
    except BaseException:
        for cache, length in zip(caches, before, strict=True):
            cache.truncate(length)
        raise


def _head_forward(params: Params, x: Array, config: Config, rows: ModuleType) -> tuple[Array, Any, Any]:
    normed, norm = rows.rmsnorm_forward(x, params["norm"], config.norm_eps)
    logits, head = linear_forward(normed, params["embed"].T if config.tied else params["head"])
    return logits, norm, head


def check_inputs(params: Params, ids: Array, config: Config) -> None:
    """Raise ValueError unless params are those of config, and ids an array (B, N) of integers."""
    check_config(config, Config)
    _check_ids("ids", ids)
    check_params_alone(params, param_shapes(config))


def _check_ids(name: str, ids: Array) -> None:
    check_shape(name, ids, ("B", "N"))
    dtype = getattr(ids, "dtype", None)
    if getattr(dtype, "kind", None) not in ("i", "u"):
        raise ValueError(f"{name} has dtype {dtype}; expected integers")


def check_caches(caches: Sequence[KVCache], n_layers: int) -> None:
    """Raise ValueError unless there is one cache per layer, each an object of its own, all with as many tokens."""
    if not isinstance(caches, (list, tuple)):
        refuse("caches", caches, "a sequence of gta_ref.KVCache, one per layer")
    if len(caches) != n_layers:
        raise ValueError(f"caches has {len(caches)} entries; expected n_layers={n_layers}")
    first: dict[int, int] = {}  # the cache's id → its number
    for i, cache in enumerate(caches):
        if not isinstance(cache, KVCache):
            refuse(f"caches[{i}]", cache, "a gta_ref.KVCache")
        if id(cache) in first:
            raise ValueError(f"caches[{i}] is caches[{first[id(cache)]}]; expected a cache of its own for every layer")
        if cache.length != caches[0].length:
            raise ValueError(f"caches[{i}] holds {cache.length} tokens; expected {caches[0].length}, as caches[0]")
        first[id(cache)] = i
