"""Load a language model by its name or from its file: a pretrained, a converted or a trained one."""

from __future__ import annotations

import os
from pathlib import Path

from gta_ref.files import one_line, parse_json, read_metadata, read_tensors
from gta_ref.lm import model, model_files, run_files, text
from gta_ref.lm.language_model import Bytes, LanguageModel
from gta_ref.ops import Array
from gta_ref.weights import pretrained


def load_model(which: str | os.PathLike[str]) -> LanguageModel:
    """Load a model by its name or from its file.

    Parameters
    ----------
    which : str or path
        "smollm2", a GGUF file of that kind, or a .safetensors file that gta-ref train or gta-ref convert has written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the name is unknown, the file is damaged, or a package that reads it is not installed.
    """
    suffix = Path(which).suffix
    if suffix == ".safetensors":
        tensors, metadata = read_tensors(which)
        if metadata.get("format") == model_files.FORMAT:
            return converted(which, tensors, metadata)
        run = run_files.parse(which, tensors, metadata)
        if run.config.vocab_size != text.VOCABULARY:
            raise ValueError(
                f"{which}: vocab_size={run.config.vocab_size}; expected {text.VOCABULARY}, one byte per token"
            )
        return LanguageModel(Path(which).stem, run.config, run.state.params, Bytes(), None)
    if suffix == ".gguf":
        return pretrained.load(path=which)
    if which not in pretrained.MODELS:
        names = ", ".join(pretrained.MODELS)
        raise ValueError(f"model={str(which)!r} must be {names}, or a file that ends in .gguf or .safetensors")
    return pretrained.load(str(which))


def load_config(which: str | os.PathLike[str]) -> model.Config:
    """Read the sizes of a model without its parameters; arguments and errors are those of :func:`load_model`."""
    suffix = Path(which).suffix
    if suffix != ".safetensors":
        return pretrained.load_config(path=which) if suffix == ".gguf" else pretrained.load_config(str(which))
    metadata = read_metadata(which)
    key = {model_files.FORMAT: "model", run_files.FORMAT: "run"}.get(metadata.get("format", ""))
    if key is None:
        raise ValueError(f"{which}: not a language model; expected a file of gta-ref train or gta-ref convert")
    try:
        return run_files.config_from_dict(parse_json(metadata[key])["config"])
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{which}: an incomplete language model ({one_line(error)})") from None
    except ValueError as error:
        raise ValueError(f"{which}: {one_line(error)}") from None


def converted(which: str | os.PathLike[str], tensors: dict[str, Array], metadata: dict[str, str]) -> LanguageModel:
    """Make a model from what :func:`gta_ref.files.read_tensors` found in a file of gta-ref convert."""
    found = model_files.parse(which, tensors, metadata)
    tokenizer = pretrained.load_tokenizer(found.tokenizer)
    return LanguageModel(Path(which).stem, found.config, found.params, tokenizer, found.context_length)
