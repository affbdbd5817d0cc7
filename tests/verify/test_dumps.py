"""Dumps of other programs: one file or many, safetensors or .npz, with capabilities, and names that are nearly right."""

import numpy as np
import pytest
from typer.testing import CliRunner

from gta_ref import cli, files
from gta_ref.verify import vectors
from gta_ref.verify.dump_files import hints, meant
from gta_ref.verify.dumps import verify_dumps

NAMES = ("attention/plain", "attention/left-padded", "attention/through-lse")


def run(*arguments):
    return CliRunner().invoke(cli.app, [str(a) for a in arguments], env={"COLUMNS": "200"}, catch_exceptions=False)


def write(folder, dtype):
    folder.mkdir(parents=True)
    for name in NAMES:
        vector = vectors.make(name, dtype)
        vectors.write(vector, folder / vectors.file_name(vector.case))


@pytest.fixture(scope="module")
def against(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vectors") / "float32"
    write(folder, "float32")
    return folder


@pytest.fixture(scope="module")
def of_two_dtypes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    write(folder / "float32", "float32")
    write(folder / "bfloat16", "bfloat16")
    return folder


def right(name, dtype="float32"):
    """What a right program writes: the required arrays, and lse in float32."""
    vector = vectors.make(name, dtype)
    low = vector.inputs["q"].dtype
    required = {key: vector.expected[key].astype(low) for key in vector.required}
    return {**required, "lse": vector.expected["lse"].astype(np.float32)}


def stem(name):
    return name.replace("/", "-")


def save_safetensors(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_tensors(path.with_suffix(".safetensors"), arrays)


def save_npz(path, arrays):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez(path.with_suffix(".npz"), **arrays)


SAVE = pytest.mark.parametrize("save", [save_safetensors, save_npz], ids=["safetensors", "npz"])


def texts(report):
    return {result.case: result.text for result in report.results}


@SAVE
def test_a_file_for_each_case(against, tmp_path, save):
    for name in NAMES:
        save(tmp_path / stem(name), right(name))
    assert verify_dumps(tmp_path, against, "required").passed
    save(tmp_path / "attention-plain", {**right("attention/plain"), "d_k": 4 * right("attention/plain")["d_k"]})
    report = verify_dumps(tmp_path, against, "required")
    assert report.counts["fail"] == 1
    (failed,) = (result for result in report.results if result.status == "fail")
    assert (failed.case, failed.stage) == ("attention/plain", "d_k")


@SAVE
@pytest.mark.parametrize("prefix", ["{name}", "{stem}", "float32/{name}"])
def test_one_file_for_all_cases(against, tmp_path, save, prefix):
    whole = {}
    for name in NAMES:
        whole |= {f"{prefix.format(name=name, stem=stem(name))}/{key}": x for key, x in right(name).items()}
    save(tmp_path / "all", whole)
    (file,) = tmp_path.iterdir()
    assert verify_dumps(file, against, "required").passed
    save(tmp_path / "all", {key: x for key, x in whole.items() if "padded" not in key})
    report = verify_dumps(file, against, "required")
    assert report.counts["missing"] == 1
    assert texts(report)["attention/left-padded"] == f"{file.name} has no arrays attention/left-padded/…"


@SAVE
def test_two_dtypes_do_not_mix(of_two_dtypes, tmp_path, save):
    for dtype in ("float32", "bfloat16"):
        for name in NAMES:
            save(tmp_path / dtype / stem(name), right(name, dtype))
    report = verify_dumps(tmp_path, of_two_dtypes, "required")
    assert report.passed
    assert len(report.results) == 2 * len(NAMES)
    # a result in another dtype than the case's is named, and so is a file that was exported in another
    report = verify_dumps(tmp_path / "bfloat16", of_two_dtypes / "float32", "required")
    assert texts(report)["attention/plain"] == "z has dtype bfloat16; expected float32"
    report = verify_dumps(of_two_dtypes / "bfloat16", of_two_dtypes / "float32")
    assert texts(report)["attention/plain"] == "attention-plain.safetensors is in bfloat16; expected float32"
    whole = {
        f"{dtype}/{name}/{key}": x
        for dtype in ("float32", "bfloat16")
        for name in NAMES
        for key, x in right(name, dtype).items()
    }
    save(tmp_path / "all", whole)
    (file,) = (path for path in tmp_path.iterdir() if path.is_file())
    assert verify_dumps(file, of_two_dtypes, "required").passed


def test_export_keeps_dtypes_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("gta_ref.verify.cases.suite", lambda name, dtype: [vectors.make(NAMES[0], dtype).case])
    assert run("vectors", "export", "--out", tmp_path / "v").exit_code == 0
    again = run("vectors", "export", "--out", tmp_path / "v", "--dtype", "float16")
    assert again.exit_code == 2
    assert "is in float32; choose another --out for float16, such as" in again.stderr
    assert vectors.read(tmp_path / "v" / "attention-plain.safetensors").dtype == "float32"
    both = run("vectors", "export", "--out", tmp_path / "both", "--dtype", "float32,float16")
    assert both.exit_code == 0, both.output
    found = {path.parent.name: vectors.read(path).dtype for path in (tmp_path / "both").rglob("*.safetensors")}
    assert found == {"float32": "float32", "float16": "float16"}


def test_capabilities(against, tmp_path):
    """A program that supports less writes less; what it has written is checked."""
    for name in NAMES[:1]:
        save_npz(tmp_path / stem(name), {key: right(name)[key] for key in ("z",)})
    assert verify_dumps(tmp_path, against, "required").counts["missing"] == 3
    able = {"attention"}
    report = verify_dumps(tmp_path, against, "required", capabilities=able)
    assert texts(report) == {
        "attention/left-padded": "needs padding, not declared",
        "attention/plain": texts(report)["attention/plain"],
        "attention/through-lse": "attention-through-lse.safetensors was not given",
    }
    assert texts(report)["attention/plain"].endswith("3 gradients not checked")
    assert report.unchecked == {"needs backward, not declared": 3}
    save_npz(tmp_path / stem(NAMES[2]), {"z": right(NAMES[2])["z"]})
    assert verify_dumps(tmp_path, against, "required", capabilities=able).passed
    # who promises lse gives it
    promised = verify_dumps(tmp_path, against, "required", capabilities={*able, "lse"})
    assert texts(promised)["attention/plain"].startswith("not given: lse")
    without = verify_dumps(tmp_path, against, "required", without={"padding", "backward"})
    assert without.passed
    assert without.counts["skip"] == 1
    narrow = verify_dumps(tmp_path, against, "required", capabilities=able, head_dim="16")
    assert texts(narrow)["attention/plain"] == "needs head_dim 16x32, not declared"
    done = run("verify", tmp_path, "--against", against, "--wanted", "required", "--capabilities", "attention")
    assert done.exit_code == 0, done.output
    done = run("verify", tmp_path, "--against", against, "--wanted", "required", "--without", "padding,backward")
    assert done.exit_code == 0, done.output
    with pytest.raises(ValueError, match=r"^capabilities='attn' must be one of"):
        verify_dumps(tmp_path, against, capabilities=["attn"])


def test_names_that_are_nearly_right(against, tmp_path):
    arrays = right("attention/plain")
    renamed = {"z": "Z", "d_q": "dq", "d_k": "k.grad", "d_v": "grad_v", "lse": "logsumexp"}
    save_npz(tmp_path / "attention-plain", {renamed[key]: x for key, x in arrays.items()})
    text = texts(verify_dumps(tmp_path, against, "required"))["attention/plain"]
    assert text.startswith("not given: z, d_q, d_k, d_v; ")
    for key, name in renamed.items():
        assert f"{name}: did you mean {key}?" in text
    # an array that need not be given is not checked under another name: the case passes and says so
    save_npz(tmp_path / "attention-plain", {"LSE" if key == "lse" else key: x for key, x in arrays.items()})
    text = texts(verify_dumps(tmp_path, against, "required"))["attention/plain"]
    assert text.endswith("of its budget; LSE: did you mean lse?")
    # inputs that were copied, and names of nothing, are no near misses
    save_npz(
        tmp_path / "attention-plain", {**arrays, "q": arrays["d_q"], "input.k": arrays["d_k"], "seconds": np.ones(1)}
    )
    text = texts(verify_dumps(tmp_path, against, "required"))["attention/plain"]
    assert text.endswith("of its budget")


def test_which_name_is_meant():
    every = ("z", "lse", "d_q", "d_k", "d_v", "d_w_q", "out", "loss", "logits", "d_x")
    for name, want in {
        "dq": "d_q", "dQ": "d_q", "grad_k": "d_k", "v_grad": "d_v", "q.grad": "d_q", "gradient_q": None, "o": "z",
        "LSE": "lse", "dw_q": "d_w_q", "grad.w_q": "d_w_q", "Loss": "loss", "logit": "logits", "dx": "d_x", "time": None,
        "k": None, "": None,
    }.items():  # fmt: skip
        assert meant(name, every) == want, name
    assert hints(["o", "output"], ["z"]) == ["o: did you mean z?"]  # the second is free to be something else


def test_files_that_are_not_there(against, tmp_path):
    (tmp_path / "mine").mkdir()
    mine = tmp_path / "mine"
    with pytest.raises(ValueError, match=r"no dump is there for any of the 3 vectors; attention-left-padded\.safet"):
        verify_dumps(mine, against)
    save_npz(mine / "attention-plain", right("attention/plain"))
    (mine / "attention-left-padded.pt").write_bytes(b"PK")
    save_npz(mine / "attention_through_lse", right("attention/through-lse"))
    report = verify_dumps(mine, against, "required")
    assert report.exit_status == 3
    found = texts(report)
    start = "attention-left-padded.safetensors was not given; attention-left-padded.pt is of a format that is not read"
    assert found["attention/left-padded"].startswith(start)
    assert found["attention/through-lse"].endswith("; did you mean that by attention_through_lse.npz?")
    save_safetensors(mine / "attention-plain", right("attention/plain"))
    text = texts(verify_dumps(mine, against, "required"))["attention/plain"]
    assert text == "there are attention-plain.safetensors and attention-plain.npz; expected one of them"


def test_files_that_cannot_be_read(against, tmp_path):
    whole = tmp_path / "attention-plain.npz"
    save_npz(whole, right("attention/plain"))
    content = whole.read_bytes()
    for damaged in (content[:-30], b"", b"PK\x03\x04" * 9, content[:200] + b"\0" * 300 + content[500:]):
        whole.write_bytes(damaged)
        text = texts(verify_dumps(tmp_path, against))["attention/plain"]
        assert "attention-plain.npz: not a complete .npz file" in text
        assert "\n" not in text
    np.savez(whole, z=np.array([object()]))
    assert "not a complete .npz file" in texts(verify_dumps(tmp_path, against))["attention/plain"]
    for path, error in ((tmp_path / "x.pt", "expected a folder, or a file"), (tmp_path / "no", "no such folder")):
        if path.suffix:
            path.write_bytes(b"")
        with pytest.raises(ValueError, match=error):
            verify_dumps(path, against)
    with pytest.raises(ValueError, match=r"attention-plain\.npz is a file; expected the folder of vectors"):
        verify_dumps(whole, whole)
