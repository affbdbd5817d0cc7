"""The examples for other programs work as they are printed: the C++ program, the pytest file, the snippets of the docs."""

import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from gta_ref.verify import vectors
from gta_ref.verify.dumps import verify_dumps

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs" / "examples"
CPP = (EXAMPLES / "attention.cpp").read_text(encoding="utf-8")
COMPILER = next(filter(None, map(shutil.which, (os.environ.get("CXX", "g++"), "c++", "clang++"))), None)
CASES = {
    "float32": ("plain", "heads-differ", "not-causal", "other-scale", "nan-in-unused-slots", "through-lse", "no-key"),
    "float64": ("both-padded", "blind-rows", "chunk", "decode-padded"),
}
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler (CXX, g++, c++, clang++)")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors")
    for dtype, names in CASES.items():
        (folder / dtype).mkdir()
        for name in names:
            vector = vectors.make(f"attention/{name}", dtype)
            vectors.write(vector, folder / dtype / vectors.file_name(vector.case))
    return folder


def compiled(source, folder):
    (folder / "attention.cpp").write_text(source, encoding="utf-8")
    command = [COMPILER, "-std=c++17", "-O0", "-Wall", "-Wextra", "-Werror", "attention.cpp", "-o", "attention"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return folder / "attention"


def results_of(program, exported, folder, only=""):
    for path in sorted(exported.rglob(f"*{only}.safetensors")):
        target = folder / path.relative_to(exported)
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run([program, path, target], check=True)
    return verify_dumps(
        folder, exported, "required", capabilities={"attention", "backward", "decode", "padding", "lse", "lse-gradient"}
    )


@needs_compiler
def test_the_program_in_c_plus_plus_passes(exported, tmp_path):
    report = results_of(compiled(CPP, tmp_path), exported, tmp_path / "mine")
    assert report.passed, report
    assert len(report.results) == sum(map(len, CASES.values()))


@needs_compiler
@pytest.mark.parametrize(
    ("right", "wrong", "stage", "case"),
    [
        ("q_start[b] + i + 1", "i + 1", "z", "chunk"),
        ("m / (n_q / n_v)) * N_k", "m % n_v) * N_k", "z", "heads-differ"),
        ("- delta + d_lse[row]", "- delta", "d_q", "through-lse"),
        ("std::size_t at = header.find(key);", "std::size_t at = std::string::npos;", "z", "other-scale"),
    ],
)
def test_broken_variants_of_it_fail(exported, tmp_path, right, wrong, stage, case):
    assert CPP.count(right) == 1
    source = CPP.replace(right, wrong)
    if "npos" in wrong:  # what is unused now would be a warning
        source = source.replace("const std::string key =", "[[maybe_unused]] const std::string key =")
    report = results_of(compiled(source, tmp_path), exported, tmp_path / "mine", case)
    (failed,) = (result for result in report.results if result.status == "fail")
    assert (failed.case, failed.stage) == (f"attention/{case}", stage)


@needs_compiler
def test_it_says_what_it_cannot_read(exported, tmp_path):
    program = compiled(CPP, tmp_path)
    vector = vectors.make("layer/gqa", "float32")
    vectors.write(vector, tmp_path / "layer.safetensors")
    for name, error in (("layer.safetensors", "expected an attention case"), ("no.safetensors", "no such file")):
        done = subprocess.run([program, tmp_path / name, tmp_path / "out"], capture_output=True, text=True)
        assert done.returncode == 1
        assert error in done.stderr
        assert not (tmp_path / "out").exists()


def pytest_on(path):
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(path)]
    if not any(point.value == "gta_ref.verify.pytest_plugin" for point in metadata.entry_points(group="pytest11")):
        command[3:3] = ["-p", "gta_ref.verify.pytest_plugin"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_pytest_example_passes_and_fails_if_its_kernel_is_wrong(tmp_path):
    pytest.importorskip("torch")
    code = (EXAMPLES / "test_my_kernel.py").read_text(encoding="utf-8")
    short = code.replace('"attention", cap', '"attention", cases=CASES, cap')
    assert short != code
    names = ("heads-differ", "not-causal", "other-scale", "nan-in-unused-slots", "token-major")
    short = f"CASES = {[f'attention/{name}' for name in names]}\n{short}"
    (tmp_path / "test_right.py").write_text(short)
    (tmp_path / "test_wrong.py").write_text(short.replace(", scale=scale)", ")"))
    done = pytest_on(tmp_path)
    assert f"1 failed, {2 * len(names) - 1} passed" in done.stdout, done.stdout[-3000:]
    assert "FAILED" in done.stdout
    assert re.search(r"FAILED .*test_wrong\.py::test_my_kernel\[\S*other-scale", done.stdout)


def snippets():
    """Blocks of Python of docs/verify.md that use an adapter, with the package that they need."""
    text = (ROOT / "docs" / "verify.md").read_text(encoding="utf-8")
    found = re.findall(r"^<!-- needs: (torch|jax) -->\n```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [
        pytest.param(package, code, id=f"{package} {n}")
        for n, (package, code) in enumerate(found)
        if "adapters" in code
    ]


@pytest.mark.parametrize(("package", "code"), snippets())
def test_a_snippet_of_the_docs_runs(package, code):
    """With two cases instead of a suite."""
    pytest.importorskip(package)
    level = re.search(r'suite="(\w+)"', code)[1]
    cases = {"attention": "attention/gqa-heads,attention/other-scale", "layer": "layer/gqa"}[level]
    short = code.replace(f'suite="{level}"', f'cases="{cases}"')
    done = subprocess.run([sys.executable, "-c", short], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ran = re.findall(r"^(\w+) +(?:attention|layer)/", done.stdout, re.MULTILINE)
    assert set(ran) == {"pass"}, done.stdout
    assert len(ran) == cases.count(",") + 1
