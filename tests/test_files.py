"""Files are written whole or not at all, and a damaged file is refused with its name."""

import json

import ml_dtypes
import numpy as np
import pytest

from gta_ref import files


def test_tensors_come_back_bit_for_bit(tmp_path, rng):
    tensors = {
        "float64": rng.standard_normal((3, 5)),
        "float32": rng.standard_normal((2, 0, 4)).astype(np.float32),
        "float16": rng.standard_normal(7).astype(np.float16),
        "bfloat16": rng.standard_normal((4, 3)).astype(ml_dtypes.bfloat16),
        "int64": rng.integers(-9, 9, (2, 2)),
        "transposed": rng.standard_normal((3, 5)).T,
        "strided": rng.standard_normal((6, 6))[::2, 1::2],
        "scalar": np.array(1.5),
    }
    files.write_tensors(tmp_path / "a.safetensors", tensors, {"config": "{}"})
    back, metadata = files.read_tensors(tmp_path / "a.safetensors")
    assert metadata == {"config": "{}"}
    assert back.keys() == tensors.keys()
    for name, want in tensors.items():
        assert back[name].dtype == want.dtype
        assert back[name].shape == want.shape
        assert back[name].tobytes() == want.tobytes()


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_truncated_file_is_one_clear_error(tmp_path, kept):
    path = tmp_path / "a.safetensors"
    files.write_tensors(path, {"x": np.arange(5.0)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"a\.safetensors: not a complete safetensors file"):
        files.read_tensors(path)


def test_foreign_file_is_one_clear_error(tmp_path):
    path = tmp_path / "picture.safetensors"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(200))
    with pytest.raises(ValueError, match=r"picture\.safetensors: not a complete safetensors file"):
        files.read_tensors(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nothing\.safetensors: no such file"):
        files.read_tensors(tmp_path / "nothing.safetensors")


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "figures.json"
    files.write_json(path, {"old": 1})
    with pytest.raises(TypeError):
        files.write_json(path, {"new": object()})
    with pytest.raises(RuntimeError, match="half-way"), files.atomic_path(path) as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise RuntimeError("half-way")
    assert json.loads(path.read_text()) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["figures.json"]


def test_a_reader_of_the_old_file_keeps_it_whole(tmp_path):
    path = tmp_path / "figures.json"
    files.write_json(path, {"old": 1})
    with path.open() as reader:
        files.write_json(path, {"new": 2})
        assert json.load(reader) == {"old": 1}
    assert json.loads(path.read_text()) == {"new": 2}


def test_a_written_file_has_ordinary_permissions(tmp_path):
    (tmp_path / "ordinary").write_text("")
    files.write_json(tmp_path / "a.json", [])
    assert (tmp_path / "a.json").stat().st_mode == (tmp_path / "ordinary").stat().st_mode
