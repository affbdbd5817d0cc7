"""Damaged, nested, duplicated, enormous and foreign files: one ValueError with one line that names the file."""

import json
import struct

import numpy as np
import pytest

from gta_ref import files
from tests.support import refused


def write(path, header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def one(dtype="F32", shape=(2,), n_bytes=8, **more):
    return {"x": {"dtype": dtype, "shape": list(shape), "data_offsets": [0, n_bytes]}, **more}


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.safetensors"


def test_truncated_at_every_byte(path):
    files.write_tensors(path, {"x": np.arange(5.0), "y": np.zeros((2, 3), np.float32)}, {"note": "kept"})
    whole = path.read_bytes()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        assert refused(files.read_tensors, path), n


def test_every_flipped_bit_of_the_header(path):
    files.write_tensors(path, {"x": np.arange(5.0), "y": np.zeros((2, 3), np.float32)}, {"note": "kept"})
    whole = path.read_bytes()
    n_header = int.from_bytes(whole[:8], "little") + 8
    lines = []
    for at in range(n_header):
        for bit in range(8):
            path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
            lines.append(refused(files.read_tensors, path))
    assert sum(line is not None for line in lines) > len(lines) / 2


@pytest.mark.parametrize(
    "header, data, reason",
    [
        (b"[" * 10_000 + b"]" * 10_000, b"", "nested too deeply"),
        (b'{"x":' * 10_000 + b"1" + b"}" * 10_000, b"", "nested too deeply"),
        (b'{"x": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "x": 1}', bytes(4), "'x' is there twice"),
        (b'{"__metadata__": {"a": "1", "a": "2"}}', b"", "'a' is there twice"),
        (b"[]", b"", "not a complete safetensors file"),
        (b"1" * 5000, b"", "not a complete safetensors file"),
        (b'{"x": "\xff"}', b"", "not a complete safetensors file"),
        ({"x": [1]}, b"", "not a complete safetensors file"),
        ({"x\n\x1b[2J": one()["x"]}, bytes(8), r"'x\\n\\x1b\[2J' has characters that cannot be printed"),
        (one("F\n64"), bytes(8), r"the tensor x has dtype F\\n64"),
        (one(dtype=8), bytes(8), "the tensor x has dtype 8"),
        (one(dtype="F8_E5M2", n_bytes=2), bytes(2), "the tensor x has dtype F8_E5M2, which NumPy lacks; expected one"),
        (one(dtype="F8_E4M3", n_bytes=3), bytes(3), "not a complete safetensors file"),
        (one(dtype="F8_E8M0", n_bytes=2), bytes(2), "the tensor x has dtype F8_E8M0"),
        (one(dtype="F4", n_bytes=1), bytes(1), "the tensor x has dtype F4"),
        (one(dtype="F128"), bytes(8), "the tensor x has dtype F128"),
        (one(shape=[2**62], n_bytes=2**64 - 1), bytes(8), "not a complete safetensors file"),
        (one(shape=[0, 2**63], n_bytes=0), b"", "not a complete safetensors file"),
        (one(shape=[2**64], n_bytes=8), bytes(8), "not a complete safetensors file"),
        (one(shape=[-1], n_bytes=8), bytes(8), "not a complete safetensors file"),
        (one(shape=[1] * 70, n_bytes=4), bytes(4), "not a complete safetensors file"),
        (one(), bytes(9), "not a complete safetensors file"),
        (one(__metadata__={"note": 1}), bytes(8), "not a complete safetensors file"),
        (b"A" * 100_000, b"", "not a complete safetensors file"),
    ],
    ids=lambda value: "" if isinstance(value, dict | bytes) else value[:30],
)
def test_headers_that_are_wrong(path, header, data, reason):
    with pytest.raises(ValueError, match=rf"a\.safetensors: .*{reason}"):
        files.read_tensors(write(path, header, data))
    assert refused(files.read_tensors, path)


def test_an_enormous_file_is_refused_without_being_read(path):
    write(path, b"{}")
    for n_header in (2**30, 2**39, 2**63, 2**64 - 1):
        with path.open("r+b") as file:
            file.write(struct.pack("<Q", n_header))
            file.truncate(2**40)  # without using the disk
        assert "the header alone is said to have" in refused(files.read_tensors, path)


def test_foreign_files(tmp_path, rng):
    contents = [b"\x89PNG\r\n\x1a\n", b"PK\3\4", b"GGUF\3\0\0\0", b"{}", b"\x93NUMPY\1\0", b"\0" * 8, b"\x7fELF"]
    contents += [rng.bytes(n) for n in rng.integers(1, 400, 200)]
    for i, content in enumerate(contents):
        path = tmp_path / f"{i}.safetensors"
        path.write_bytes(content + bytes(100))
        assert refused(files.read_tensors, path)


@pytest.mark.parametrize(
    "content, reason",
    [
        (b"", "Expecting value"),
        (b"{", "Expecting property name"),
        (b"[" * 10_000 + b"]" * 10_000, "nested too deeply"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "nested too deeply"),
        (b'{"a": [{"b": 1, "c": 2, "b": 3}]}', "the key 'b' is there twice"),
        (b"\xff\xfe{}", "codec can't decode"),
        (b"9" * 5000, "limit"),
        (b"\x89PNG\r\n\x1a\n", "codec can't decode"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_json_that_is_wrong(tmp_path, content, reason):
    path = tmp_path / "figures.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"figures\.json: not complete JSON \(.*{reason}"):
        files.read_json(path)
    assert refused(files.read_json, path)


def test_json_truncated_at_every_byte(tmp_path):
    path = tmp_path / "figures.json"
    content = {"a": [1, 2.5, None], "b": {"c": "ü"}}
    files.write_json(path, content)
    assert files.read_json(path) == content
    whole = path.read_bytes().rstrip()
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        assert refused(files.read_json, path), n
    with pytest.raises(FileNotFoundError, match=r"none\.json: no such file"):
        files.read_json(tmp_path / "none.json")
