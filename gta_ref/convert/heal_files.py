"""Files of healings: from each of them its healing continues, to the last bit.

A file holds what is trained and its moments, not the parameters that stay those of the original.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

import numpy as np

from gta_ref.convert.heal import Healing, State, next_trains
from gta_ref.errors import as_int, check_shape
from gta_ref.files import one_line, parse_json, read_tensors, write_tensors
from gta_ref.lm import optimizer
from gta_ref.lm.run_files import config_to_dict
from gta_ref.ops import Array

FORMAT = "gta_ref healing 1"


def save(path: str | os.PathLike[str], healing: Healing) -> None:
    """Write a healing to a safetensors file, whole or not at all."""
    step, trained, moments = healing.state
    tensors = {f"trained.{name}": w for name, w in trained.items()}
    tensors |= {f"m.{name}": m for name, m in moments.m.items()} | {f"v.{name}": v for name, v in moments.v.items()}
    tensors["losses"] = np.array(healing.losses[:step])
    about = {
        "config": config_to_dict(healing.config),
        "settings": dataclasses.asdict(healing.settings),
        "text": healing.text,
        "digest": healing.digest,
        "step": step,
        "seconds": healing.seconds,
    }
    write_tensors(path, tensors, {"format": FORMAT, "healing": json.dumps(about)})


def load(path: str | os.PathLike[str], beginning: Healing) -> Healing:
    """Read a healing that :func:`save` has written.

    Parameters
    ----------
    path : str or path
    beginning : Healing
        What :func:`gta_ref.convert.heal.begin` made of the same model, settings and text.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, not a healing, or that of another model, of other settings or of another text.
    """
    tensors, metadata = read_tensors(path)
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a healing; expected a file that gta-ref heal has written")
    try:
        return _healing(parse_json(metadata["healing"]), tensors, beginning)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: an incomplete healing ({one_line(error)})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _healing(about: Any, tensors: dict[str, Array], beginning: Healing) -> Healing:
    settings, config = beginning.settings, beginning.config
    for name, found, expected in (
        ("settings", about["settings"], dataclasses.asdict(settings)),
        ("config", about["config"], json.loads(json.dumps(config_to_dict(config)))),
    ):
        different = sorted(key for key in {*found, *expected} if found.get(key) != expected.get(key))
        if different:
            raise ValueError(
                f"its {name} has {different[0]}={found.get(different[0])!r}; expected {expected.get(different[0])!r}"
            )
    if about["text"] != beginning.text:
        raise ValueError(f"its text is {about['text']!r}; expected {beginning.text!r}")
    if about["digest"] != beginning.digest:
        raise ValueError("it began with another model of the same sizes")
    step = as_int("step", about["step"], at_least=0, at_most=settings.total)
    losses, seconds = tensors["losses"], about["seconds"]
    check_shape("losses", losses, (step,))
    if losses.dtype != np.float64:
        raise ValueError(f"losses has dtype {losses.dtype}; expected float64")
    if type(seconds) not in (int, float) or not 0.0 <= seconds <= sys.float_info.max:
        raise ValueError(f"seconds={seconds!r} must be a finite number of at least 0")
    first = beginning.state.trained
    trained = _like("trained", tensors, first)
    m, v = (_like(kind, tensors, next_trains(first, step, settings)) for kind in ("m", "v"))
    state = State(step, trained, optimizer.Moments(m, v))
    return dataclasses.replace(beginning, state=state, losses=losses.tolist(), seconds=float(seconds))


def _like(kind: str, tensors: dict[str, Array], expected: dict[str, Array]) -> dict[str, Array]:
    found = {name: tensors[f"{kind}.{name}"] for name in expected}
    for name, x in found.items():
        check_shape(f"{kind}.{name}", x, expected[name].shape)
        if x.dtype != expected[name].dtype:
            raise ValueError(f"{kind}.{name} has dtype {x.dtype}; expected {expected[name].dtype}")
    return found
