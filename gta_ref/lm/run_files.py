"""Files of training runs: from each of them its run continues, to the last bit."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from typing import Any

import numpy as np

from gta_ref import mechanisms
from gta_ref.errors import as_int, check_names, check_shape
from gta_ref.files import one_line, parse_json, read_tensors, write_tensors
from gta_ref.lm import model, optimizer
from gta_ref.lm.run import Run, Settings, State
from gta_ref.ops import Array, as_dtype

FORMAT = "gta_ref training run 1"


def save(path: str | os.PathLike[str], run: Run) -> None:
    """Write the run to a safetensors file, whole or not at all."""
    step, params, moments = run.state
    tensors = {f"params.{name}": p for name, p in params.items()}
    tensors |= {f"m.{name}": m for name, m in moments.m.items()} | {f"v.{name}": v for name, v in moments.v.items()}
    tensors["losses"] = np.array(run.losses[:step])
    about = {
        "config": config_to_dict(run.config),
        "settings": dataclasses.asdict(run.settings),
        "source": run.source,
        "step": step,
        "validation": {str(k): v for k, v in run.validation.items() if k <= step},
        "seconds": run.seconds,
    }
    write_tensors(path, tensors, {"format": FORMAT, "run": json.dumps(about)})


def load(path: str | os.PathLike[str]) -> Run:
    """Read a run that :func:`save` has written.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If the file is damaged, not a training run, or says something about the run that does not fit the rest.
    """
    return parse(path, *read_tensors(path))


def parse(path: str | os.PathLike[str], tensors: dict[str, Array], metadata: dict[str, str]) -> Run:
    """Make a run from what :func:`gta_ref.files.read_tensors` found in a file; it raises what :func:`load` raises."""
    if metadata.get("format") != FORMAT:
        raise ValueError(f"{path}: not a training run; expected a file that gta-ref train has written")
    try:
        return _run(parse_json(metadata["run"]), tensors)
    except (KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"{path}: an incomplete training run ({one_line(error)})") from None
    except ValueError as error:
        raise ValueError(f"{path}: {one_line(error)}") from None


def _run(about: Any, tensors: dict[str, Array]) -> Run:
    """Make a run from the content of its file; raise an exception if anything does not fit the rest."""
    for name, kind in (("config", dict), ("settings", dict), ("validation", dict), ("source", str)):
        _check_type(name, about[name], kind)
    if not about["source"].isprintable():
        raise ValueError(f"source={about['source']!r} has characters that cannot be printed")
    check_names("settings", about["settings"], [f.name for f in dataclasses.fields(Settings)])
    settings = Settings(**about["settings"])
    step = as_int("step", about["step"], at_least=0)
    if step > settings.steps:
        raise ValueError(f"step={step} must be at most {settings.steps}, the number of steps")
    losses = tensors["losses"]
    check_shape("losses", losses, ("steps",))
    if losses.dtype != np.float64 or len(losses) != step:
        raise ValueError(f"{len(losses)} losses of dtype {losses.dtype}; expected {step}, one per step, of float64")
    seconds = about["seconds"]
    if type(seconds) not in (int, float) or not 0.0 <= seconds <= sys.float_info.max:
        raise ValueError(f"seconds={seconds!r} must be a finite number of at least 0")
    for key, loss in about["validation"].items():
        if not (key.isdecimal() and str(int(key)) == key and 1 <= int(key) <= step and type(loss) is float):
            raise ValueError(f"validation has {key!r}: {loss!r}; expected steps up to {step} and their losses")
    config = config_from_dict(about["config"])
    if config.n_layers > len(tensors):  # before the shapes of all layers are listed
        raise ValueError(f"n_layers={config.n_layers} does not fit {len(tensors)} tensors")
    shapes = model.param_shapes(config)
    params, m, v = ({name: tensors[f"{kind}.{name}"] for name in shapes} for kind in ("params", "m", "v"))
    for name, shape in shapes.items():
        if not params[name].shape == m[name].shape == v[name].shape == shape:
            raise ValueError(f"{name} has another shape than {shape}")
    dtypes = sorted({str(x.dtype) for part in (params, m, v) for x in part.values()})
    if len(dtypes) > 1:
        raise ValueError(f"the parameters and moments have the dtypes {', '.join(dtypes)}; expected one")
    as_dtype(dtypes[0])
    validation = {int(key): loss for key, loss in about["validation"].items()}
    state = State(step, params, optimizer.Moments(m, v))
    return Run(config, settings, about["source"], state, losses.tolist(), validation, float(seconds))


def config_to_dict(config: model.Config) -> dict[str, Any]:
    """A model's configuration as plain JSON."""
    return dataclasses.asdict(config)


def config_from_dict(content: dict[str, Any]) -> model.Config:
    """The inverse of :func:`config_to_dict`."""
    check_names("config", content, [f.name for f in dataclasses.fields(model.Config)])
    module = mechanisms.load(content["mechanism"])
    names = [f.name for f in dataclasses.fields(module.Config) if f.init]

    def layer(name: str, fields: Any) -> Any:
        _check_type(name, fields, dict)
        check_names(name, fields, names)
        return module.Config(**fields)

    found = content["attention"]
    if isinstance(found, list):  # one per layer
        attention: Any = tuple(layer(f"attention[{i}]", fields) for i, fields in enumerate(found))
    else:
        attention = layer("attention", found)
    return model.Config(**{**content, "attention": attention})


def _check_type(name: str, value: Any, expected: type) -> None:
    if not isinstance(value, expected):
        raise ValueError(f"{name} is a {type(value).__name__}; expected a {expected.__name__}")
