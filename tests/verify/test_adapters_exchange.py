"""Arrays to and from other libraries, every kind of array that an implementation may return, and layouts in memory."""

import importlib.util
import sys
import types

import numpy as np
import pytest

from gta_ref.ops import as_dtype
from gta_ref.verify import cases, vectors
from gta_ref.verify.exchange import LAYOUTS, from_numpy, lay_out, to_numpy
from tests.verify.needs import needs_jax, needs_mlx, needs_torch

LIBRARIES = [
    "numpy",
    pytest.param("torch", marks=needs_torch),
    pytest.param("jax", marks=needs_jax),
    pytest.param("mlx", marks=needs_mlx),
]


@pytest.mark.parametrize("dtype", cases.DTYPES)
@pytest.mark.parametrize("library", LIBRARIES)
def test_there_and_back(library, dtype):
    if library == "jax" and dtype == "float64":
        pytest.skip("JAX has float64 only with jax_enable_x64")
    x = np.array([[0.1, np.nan, -np.inf], [0.0, -0.0, 7.0]]).astype(as_dtype(dtype))
    whole = np.arange(3) if library != "jax" else np.arange(3, dtype=np.int32)
    given = {"x": x, "zero-d": x[0, 0], "none": x[:0], "whole": whole, "backwards": x[:, ::-1], "T": x.T}
    given["read-only"] = np.broadcast_to(x, (2, *x.shape))
    given = {name: np.asarray(a) for name, a in given.items()}
    for name, back in from_numpy(given, library).items():
        got = to_numpy(back, name)
        assert (got.dtype, got.shape) == (given[name].dtype, given[name].shape), name
        assert got.tobytes() == given[name].tobytes(), name


def test_python_numbers_are_arrays_of_no_axes():
    assert to_numpy(1.5, "loss").shape == ()
    assert to_numpy(2, "loss") == 2.0
    for wrong, kind in ((True, "a bool"), ("1", "a str"), ([1.0], "a list"), (None, "None")):
        with pytest.raises(ValueError, match=f"^loss is {kind}; expected an array$"):
            to_numpy(wrong, "loss")
    with pytest.raises(ValueError, match=r"^z has dtype object; expected numbers$"):
        to_numpy(np.array([None]), "z")


@needs_torch
def test_tensors_of_every_kind():
    import torch

    class Named(torch.Tensor):
        pass

    x = torch.arange(6.0).reshape(2, 3)
    want = x.numpy()
    for one in (
        x.clone().requires_grad_(),
        x.T.contiguous().T,
        x.as_subclass(Named).requires_grad_(),
        torch.nn.Parameter(x),
    ):
        np.testing.assert_array_equal(to_numpy(one), want)
    np.testing.assert_array_equal(to_numpy(torch._neg_view(x)), -want)
    assert to_numpy((x * x).sum().requires_grad_()).shape == ()
    expanded = torch.ones(1, 2, dtype=torch.bfloat16).expand(3, 2)
    assert to_numpy(expanded).shape == (3, 2)
    for odd in (torch.empty(2, device="meta"), x.to_sparse(), x.to(torch.float8_e5m2)):
        with pytest.raises(ValueError, match=r"^z is a tensor of .*which NumPy cannot read") as error:
            to_numpy(odd, "z")
        assert "\n" not in str(error.value)


@needs_jax
def test_a_traced_array_is_one_line():
    import jax

    def traced(x):
        with pytest.raises(ValueError, match=r"^z is a \w+, which NumPy cannot read") as error:
            to_numpy(x, "z")
        assert "\n" not in str(error.value)
        assert r"\n" not in str(error.value)  # the first line alone, not all of them with escapes
        return x

    jax.jit(traced)(1.0)


def test_a_missing_package_is_named():
    if importlib.util.find_spec("cupy") is None:
        with pytest.raises(ValueError, match=r"^arrays='cupy' needs the package cupy$"):
            from_numpy({"x": np.zeros(2)}, "cupy")
    with pytest.raises(
        ValueError, match=r"^arrays='tensorflow' must be one of 'numpy', 'torch', 'jax', 'cupy', 'mlx'$"
    ):
        from_numpy({}, "tensorflow")


def test_mlx_by_its_documented_interface(monkeypatch):
    """Also where MLX is not installed: a stand-in with the parts of its interface that are used."""

    class Array:
        def __init__(self, x, dtype=None):
            self.x = np.array(x, dtype)
            self.dtype = dtype or (np.float32 if self.x.dtype == np.float64 else self.x.dtype)

        def view(self, dtype):
            return Array(self.x.view(dtype), dtype)

        def __array__(self, dtype=None, copy=None):
            if self.dtype == as_dtype("bfloat16"):
                raise ValueError("no such buffers")
            return self.x

    core = types.ModuleType("mlx.core")
    core.array, core.cpu, core.Device, core.bfloat16 = Array, "cpu", str, as_dtype("bfloat16")
    for name in ("float64", "float32", "float16", "uint16", "int64"):
        setattr(core, name, np.dtype(name))
    monkeypatch.setitem(sys.modules, "mlx", types.ModuleType("mlx"))
    monkeypatch.setitem(sys.modules, "mlx.core", core)
    sys.modules["mlx"].core = core
    core.default_device = lambda: "cpu"
    for dtype in cases.DTYPES:
        x = np.linspace(-1, 1, 5).astype(as_dtype(dtype))
        back = to_numpy(from_numpy({"x": x}, "mlx")["x"])
        assert (back.dtype, back.tobytes()) == (x.dtype, x.tobytes())
    core.default_device = lambda: "gpu"
    with pytest.raises(ValueError, match="MLX supports float64 only on its CPU device"):
        from_numpy({"x": np.zeros(1)}, "mlx")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("library", [*LIBRARIES[:3]])
def test_a_layout_changes_no_value(library, dtype, layout):
    for name in ("attention/heads-differ", "attention/chunk", "attention/no-key"):
        inputs = {key: np.array(x) for key, x in vectors.make(name, dtype).inputs.items()}
        found = lay_out(from_numpy(inputs, library), layout)
        assert found.keys() == inputs.keys()
        for key, x in found.items():
            if library == "jax" and inputs[key].dtype == np.int64:
                continue
            assert to_numpy(x).shape == inputs[key].shape
            assert to_numpy(x).tobytes() == inputs[key].tobytes(), (name, key)


@pytest.mark.parametrize("library", ["numpy", pytest.param("torch", marks=needs_torch)])
def test_layouts_are_views_as_they_say(library):
    rng = np.random.default_rng(0)
    arrays = {name: rng.standard_normal((2, n, 5, 8)) for name, n in (("q", 4), ("k", 2), ("v", 2), ("d_z", 4))}
    arrays["k"] = np.array(np.broadcast_to(arrays["k"][:, :1], arrays["k"].shape), order="C")
    given = from_numpy(arrays, library)

    def strides(x):  # in elements
        return tuple(s // 8 for s in x.strides) if library == "numpy" else x.stride()

    assert all(strides(x) == (x.shape[1] * 40, 40, 8, 1) for x in lay_out(given, "contiguous").values())
    assert all(strides(x) == (x.shape[1] * 40, 8, x.shape[1] * 8, 1) for x in lay_out(given, "token-major").values())
    packed = lay_out(given, "packed")
    assert all(strides(packed[name]) == (5 * 64, 8, 64, 1) for name in "qkv")
    assert strides(packed["d_z"]) == (160, 8, 32, 1)
    expanded = lay_out(given, "broadcast")
    assert strides(expanded["k"])[1] == 0
    assert expanded["v"] is given["v"]
    cached = lay_out({**given, "q": given["q"][:, :, :2]}, "packed")
    assert strides(cached["q"]) == (64, 8, 32, 1)
    assert strides(cached["k"]) == (5 * 32, 8, 32, 1)
    with pytest.raises(ValueError, match=r"^layout='columns' must be one of 'contiguous'"):
        lay_out(given, "columns")
