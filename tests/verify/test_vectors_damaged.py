"""Files of vectors with damaged tensors, headers or metadata: one line with the name, and no other exception."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from gta_ref import files
from gta_ref.verify import vectors
from gta_ref.verify.dumps import verify_dumps

NAME = "attention-plain.safetensors"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("vectors") / NAME
    vectors.write(vectors.make("attention/plain", "bfloat16"), path)
    return path.read_bytes()


@pytest.fixture
def path(tmp_path, whole):
    (tmp_path / NAME).write_bytes(whole)
    return tmp_path / NAME


def refused(path):
    """Read a vector that may be damaged; return the line of the error, or None if it could be read."""
    try:
        vectors.read(path)
    except ValueError as error:
        line = str(error)
        assert path.name in line, line
        assert line.isprintable(), line
        assert len(line) < 1000, line
        return line
    return None


def n_header(whole):
    return 8 + int.from_bytes(whole[:8], "little")


def test_truncated(path, whole):
    lengths = [*range(0, n_header(whole), 37), *range(n_header(whole), len(whole), len(whole) // 50), len(whole) - 1]
    for n in lengths:
        path.write_bytes(whole[:n])
        assert refused(path), n


def test_a_flipped_bit_anywhere_is_noticed(path, whole):
    """In the header too: the checksums cover the metadata, and every tensor's name, dtype and shape."""
    rng = np.random.default_rng(5)
    header = rng.integers(0, n_header(whole), 600)
    data = rng.integers(n_header(whole), len(whole), 100)
    want = vectors.read(path)
    unnoticed = 0
    for at in (*header, *data):
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.integers(8)
        path.write_bytes(changed)
        if refused(path) is None:
            unnoticed += 1  # white space, or the name of the checksum's own entry
            got = vectors.read(path)
            assert (got.case, got.dtype, got.budgets, got.required) == (
                want.case,
                want.dtype,
                want.budgets,
                want.required,
            )
            assert [(name, x.dtype, x.shape) for name, x in got.inputs.items()] == [
                (name, x.dtype, x.shape) for name, x in want.inputs.items()
            ]
    assert unnoticed < 10


STRANGE: list[Any] = [
    None,
    True,
    -1,
    1e400,
    float("nan"),
    "x",
    "\n\x1b",
    [],
    [[]],
    [1],
    {},
    {"x": None},
    {"\n": "y"},
    10**400,
]


@pytest.mark.parametrize(
    "entry",
    [
        *("schema", "case", "level", "dtype", "seed", "case_seed", "products", "tags", "settings", "order", "required"),
        *("budgets", "rms", "slopes", "singles", "fine", "sha256"),
    ],
)
@pytest.mark.parametrize("signed", ["as it was", "anew", None])
def test_every_entry_of_the_metadata(path, entry, signed):
    tensors, metadata = files.read_tensors(path)
    content = json.loads(metadata["gta_ref"])
    changes = [{name: x for name, x in content.items() if name != entry}]
    changes += [content | {entry: value} for value in STRANGE]
    # one more, one less and one other in everything that holds several things
    if isinstance(content[entry], dict) and entry != "settings":
        first = next(iter(content[entry]))
        changes += [content | {entry: content[entry] | {first: value}} for value in STRANGE]
        changes += [content | {entry: content[entry] | {"other": content[entry][first]}}]
    elif isinstance(content[entry], list):
        changes += [content | {entry: [*content[entry], value]} for value in STRANGE]
        changes += [content | {entry: content[entry] * 2}]
    harmless = 0
    for change in changes:
        if change == content:
            continue
        text = json.dumps(change)
        checksum = vectors._header_digest(text, tensors) if signed == "anew" else metadata["gta_ref_sha256"]
        files.write_tensors(path, tensors, {"gta_ref": text, **({"gta_ref_sha256": checksum} if signed else {})})
        line = refused(path)
        harmless += line is None
        assert verify_dumps(path.parent, path.parent).results[0].status in ("pass", "error", "missing", "fail")
    # with a checksum made anew, another seed, tag, setting or name cannot be noticed, only another type
    free = {"case": 3, "seed": 3, "case_seed": 3, "tags": 6, "settings": 3, "required": 3}
    free |= {"budgets": 1, "rms": 3, "slopes": 3, "singles": 3, "fine": 3}
    assert harmless <= (free.get(entry, 0) if signed == "anew" else 0)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "1",
        '"schema"',
        '{"schema": 1}',
        '{"schema": 2}',
        '{"schema": [2]}',
        '{"schema": "2"}',
        '{"schema": true}',
        '{"schema": 2, "schema": 2}',
        "[" * 10_000 + "]" * 10_000,
        '{"schema":' * 10_000 + "2" + "}" * 10_000,
        '{"schema": "' + "\\n" * 5000 + '"}',
    ],
    ids=lambda text: text[:30],
)
def test_metadata_that_is_something_else(path, text):
    tensors, _ = files.read_tensors(path)
    files.write_tensors(path, tensors, {"gta_ref": text})
    assert refused(path)
    report = verify_dumps(path.parent, path.parent)
    assert [result.status for result in report.results] == ["error"]


def test_other_shapes_dtypes_and_tensors_are_noticed(path):
    tensors, metadata = files.read_tensors(path)
    q = tensors["input.q"]
    changes = [{"input.q": q.reshape(-1)}, {"input.q": q.view(np.int16)}, {"input.r": q}, {"expected.\x1b": q}]
    for change in changes:
        try:
            files.write_tensors(path, tensors | change, metadata)
        except ValueError:
            continue
        assert refused(path), list(change)


def test_the_checksum_of_the_metadata_is_needed(path):
    tensors, metadata = files.read_tensors(path)
    files.write_tensors(path, tensors, {"gta_ref": metadata["gta_ref"]})
    assert "its metadata or the tensors' shapes are not as written (sha256)" in refused(path)


@pytest.mark.parametrize("factor", [30.0, 1e30])
def test_budgets_that_let_a_senseless_result_pass(path, factor):
    """Even with a checksum of their own."""
    vector = vectors.read(path)
    budgets = {name: factor * budget for name, budget in vector.budgets.items()}
    vectors.write(dataclasses.replace(vector, limits=dataclasses.replace(vector.limits, budgets=budgets)), path)
    assert "its budgets are too large: zeros for z is only" in refused(path)


def test_leftovers_in_a_folder_are_not_vectors(path, whole):
    (path.parent / ".attention-plain-x1y2z3.safetensors").write_bytes(whole[:100])
    report = verify_dumps(path.parent, path.parent)
    assert [result.case for result in report.results] == ["attention/plain"]
