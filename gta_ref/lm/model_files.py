"""Files of language models that were not trained here: parameters, configuration, and which tokenizer they need."""

from __future__ import annotations

import json
import os
from typing import NamedTuple

from gta_ref.errors import as_int, check_names
from gta_ref.files import one_line, parse_json, read_tensors, write_tensors
from gta_ref.lm import model
from gta_ref.lm.run_files import config_from_dict, config_to_dict
from gta_ref.ops import Array
from gta_ref.ops.arrays import check_params_alone

FORMAT = "gta_ref language model 1"


class Content(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    config : gta_ref.lm.model.Config
    params : dict of str to array
    tokenizer : str
        The name of the pretrained model whose tokenizer it uses.
    context_length : int
        Largest number of tokens in a text.
    """

    config: model.Config
    params: dict[str, Array]
    tokenizer: str
    context_length: int


def save(path: str | os.PathLike[str], content: Content) -> None:
    """Write a model to a safetensors file, whole or not at all."""
    check_params_alone(content.params, model.param_shapes(content.config))
    about = {
        "config": config_to_dict(content.config),
        "tokenizer": content.tokenizer,
        "context_length": content.context_length,
    }
    write_tensors(path, content.params, {"format": FORMAT, "model": json.dumps(about)})


def load(path: str | os.PathLike[str]) -> Content:
    """Read a file that :func:`save` has written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, of another kind, or something does not fit the rest; the message names the file.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a converted model; expected a file that gta-ref convert has written")
    return parse(path, tensors, metadata)


def parse(path: str | os.PathLike[str], tensors: dict[str, Array], metadata: dict[str, str]) -> Content:
    """Make a model from what :func:`gta_ref.files.read_tensors` found in a file that :func:`save` has written.

    Raises
    ------
    ValueError
        If something is missing or does not fit the rest; the message names the file.
    """
    try:
        about = parse_json(metadata["model"])
        check_names("model", about, ["config", "tokenizer", "context_length"])
        config = config_from_dict(about["config"])
        if config.n_layers > len(tensors):  # before the shapes of all layers are listed
            raise ValueError(f"n_layers={config.n_layers} does not fit {len(tensors)} tensors")
        check_params_alone(tensors, model.param_shapes(config))
        return Content(
            config, tensors, str(about["tokenizer"]), as_int("context_length", about["context_length"], at_least=1)
        )
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: an incomplete language model ({one_line(error)})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None
