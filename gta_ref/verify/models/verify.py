"""Compare the activations that a program has dumped with a checkpoint, stage by stage.

Every stage is judged by its *local* error: against our own computation that starts from the nearest earlier block
input that the candidate gave. An error in block 2 is therefore reported in block 2 alone, whatever it does to the
blocks after it. The *accumulated* error, against our computation from the ids, is reported beside it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np

from gta_ref.errors import check_choice, check_shape, check_type
from gta_ref.ops import Array, as_dtype
from gta_ref.ops.arrays import FLOAT_DTYPES
from gta_ref.verify.exchange import to_numpy
from gta_ref.verify.models import activations as dump
from gta_ref.verify.models import names
from gta_ref.verify.models.activations import Given, Shape
from gta_ref.verify.models.block import EXACT, Computer, Way, run
from gta_ref.verify.models.budget import BITS
from gta_ref.verify.models.reference import Reference, load_reference
from gta_ref.verify.models.report import OFF, ModelReport, grouped
from gta_ref.verify.models.walk import Walk


def verify_model(
    model: str | os.PathLike[str] | Reference,
    activations: str | os.PathLike[str] | Mapping[str, Any],
    *,
    ids: Any = None,
    prompt: str | None = None,
    dtype: str | None = None,
    on_progress: Callable[[str], None] = lambda name: None,
) -> ModelReport:
    """Compare a program's activations with a checkpoint.

    Parameters
    ----------
    model : str, path or Reference
        As for :func:`gta_ref.verify.models.reference.load_reference`.
    activations : path or mapping of str to array
        A .safetensors or .npz file, or the arrays themselves; see :mod:`gta_ref.verify.models.names`.
    ids : (N,) or (B, N) integers, optional
        The tokens. Default: the array ``ids`` or ``input_ids`` of the activations.
    prompt : str, optional
        A text in place of ids, for a model whose file has a tokenizer.
    dtype : str, optional
        What the program computes in. Default: the coarsest dtype of the arrays; if all their numbers are those of a
        coarser one (bfloat16 in a float32 file), that one.
    on_progress : callable, optional
        Called with the name of the part that is being compared.

    Returns
    -------
    ModelReport

    Raises
    ------
    ValueError
        If no name of the activations is known, the ids are missing, or two arrays of one stage differ.
    """
    if dtype is not None:
        check_choice("dtype", dtype, FLOAT_DTYPES)
    reference = model if isinstance(model, Reference) else load_reference(model)
    arrays = activations if isinstance(activations, Mapping) else dump.read(activations)
    tokens = find_ids(reference, arrays, ids, prompt)
    known, shapes = stage_shapes(reference, *tokens.shape)
    given, unknown = dump.resolve(arrays, known, reference.config.n_layers)
    notes: list[str] = []
    if dtype is None:
        dtype, why = _dtype_of(given)
        notes += [why] if why else []
    walk = Walk(reference, tokens, _positions(arrays, tokens), dtype, given, shapes)
    walk.go(on_progress)
    last = walk.results[-1] if walk.results else None
    if all(r.kind == "ok" for r in walk.results) and last is not None and (last.accumulated or 0) > OFF:
        notes.append(f"The errors of all blocks together are {last.accumulated:.3g} times the budget of {last.stage}")
    return ModelReport(
        model=reference.name,
        dtype=dtype,
        n_tokens=tokens.size,
        stages=tuple(walk.results),
        cause=walk.cause,
        unchecked=grouped(_unchecked(known, {result.stage for result in walk.results})),
        ignored=unknown,
        notes=(*notes, *walk.notes),
        complete=any(r.stage == "logits" for r in walk.results),
    )


def _unchecked(known: Sequence[str], judged: Collection[str]) -> list[str]:
    """Stages that were not judged; a block's input is the output before it, so that one of both is enough."""
    before = {"blocks.0.input": "embedding"}
    before |= {f"blocks.{i}.input": f"blocks.{i - 1}.output" for i in range(1, len(known))}
    seen = {*judged, *(before[name] for name in judged if name in before)}
    return [name for name in known if name not in seen and name not in before]


def stage_shapes(reference: Reference, batch: int, n: int) -> tuple[list[str], dict[str, Shape]]:
    """All stages of a model in the order of computation, and their shapes for ids (batch, n)."""
    config, way = reference.config, Way("float32")
    computer = Computer(reference, np.zeros((1, 2), np.int64), np.zeros((1, 2), np.int64))
    x = computer.embedding(EXACT)
    shapes: dict[str, Shape] = {"embedding": (batch, n, config.hidden_size)}
    inner: dict[str, Shape] = {}
    for i in range(config.n_layers):
        if i == 0 or reference.is_whole(i) != reference.is_whole(i - 1) or config.layer(i) != config.layer(i - 1):
            # two tokens show which axes are those of tokens: (1, 2, width), (1, heads, 2, width), the maps, and lse
            inner = {
                name: (batch, x.shape[1], n)
                if name == "attention.lse"
                else (batch, n, x.shape[2])
                if x.ndim == 3
                else (batch, x.shape[1], n, n if name in ("attention.scores", "attention.map") else x.shape[3])
                for name, x in run(computer.block(i, way), x, way).items()
            }
        shapes |= {f"blocks.{i}.{name}": shape for name, shape in inner.items()}
        shapes[f"blocks.{i}.output"] = (batch, n, config.hidden_size)  # also if it is not computed: it may be given
    shapes["norm"] = (batch, n, config.hidden_size)
    shapes["logits"] = (batch, n, config.vocab_size)
    return list(shapes), shapes


def find_ids(reference: Reference, arrays: Mapping[str, Any], ids: Any, prompt: str | None) -> Array:
    """The tokens, (B, N) integers, from an argument, a text or the activations."""
    if ids is not None and prompt is not None:
        raise ValueError("ids and prompt were both given; expected one of them")
    where = "ids"
    if prompt is not None:
        check_type("prompt", prompt, str, "a str")
        if reference.tokenizer is None:
            raise ValueError(f"{reference.name} has no tokenizer that is read here; expected ids in place of a prompt")
        ids = np.array(reference.tokenizer.encode(prompt), np.int64)
    elif ids is None:
        where = next((name for name in names.IDS if name in arrays), "")
        if not where:
            raise ValueError("the token ids are missing; expected a prompt, or an array ids or input_ids in the file")
        ids = arrays[where]
    found = to_numpy(ids, where) if not isinstance(ids, list | tuple) else np.asarray(ids)
    found = found[None] if found.ndim == 1 else found
    check_shape(where, found, ("B", "N"))
    if found.dtype.kind not in "iu" or not found.size:
        raise ValueError(f"{where} has dtype {found.dtype} and shape {found.shape}; expected integers, at least one")
    low, high, vocab = int(found.min()), int(found.max()), reference.config.vocab_size
    if low < 0 or high >= vocab:
        raise ValueError(f"{where} go from {low} to {high}; expected 0 to {vocab - 1} (the vocabulary)")
    return found.astype(np.int64)


def _positions(arrays: Mapping[str, Any], ids: Array) -> Array:
    """RoPE's positions, (1 or B, N): those of the activations, or 0, 1, ….

    Raises
    ------
    ValueError
        If they do not fit the ids, or a token is masked out.
    """
    if names.MASK in arrays and not (to_numpy(arrays[names.MASK], names.MASK) == 1).all():
        raise ValueError(f"{names.MASK} has other numbers than 1; expected sequences without padding")
    name = next((name for name in names.POSITIONS if name in arrays), None)
    if name is None:
        return np.arange(ids.shape[1])[None]
    found = np.atleast_2d(to_numpy(arrays[name], name))
    if found.dtype.kind not in "iu" or found.shape not in ((1, ids.shape[1]), ids.shape):
        raise ValueError(f"{name} has dtype {found.dtype} and shape {found.shape}; expected integers {ids.shape}")
    return found.astype(np.int64)


def _dtype_of(given: Mapping[str, Given]) -> tuple[str, str | None]:
    """The coarsest dtype of the arrays, or the dtype from which all their numbers were widened, and a note then."""
    order = sorted(BITS, key=lambda name: BITS[name])
    coarsest = min((g.x.dtype.name for g in given.values()), key=order.index)
    # the embedding is a table, whose numbers may have been rounded when the model was saved
    computed = [g.x for g in given.values() if g.stage not in ("embedding", "blocks.0.input")]
    if not any(x.any() for x in computed):
        return coarsest, None
    for name in order[: order.index(coarsest)]:
        with np.errstate(over="ignore"):
            if all(np.array_equal(x.astype(as_dtype(name)).astype(x.dtype), x, equal_nan=True) for x in computed):
                return name, f"All numbers are {name}'s, in arrays of {coarsest}; compared as {name}"
    return coarsest, None
