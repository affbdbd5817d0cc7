# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 8. Verify your implementation
#
# By the end you will know
#
# * how to find, with `gta_ref.verify`, the first array in which an implementation of GTA goes wrong, and often why;
# * how far from the truth a correct implementation may be, in float32 and in bfloat16, and where that bound comes from;
# * how to check a program in another language, or run your own test suite, with the same cases.
#
# Install, in the folder of the repository: `python -m pip install --editable '.[notebooks]'`. No GPU, no network; it
# takes half a minute to run.
#
# [previous: choosing sizes](07c_choosing_sizes.ipynb) |
# [next: a context that no machine holds](09_a_context_that_no_machine_holds.ipynb)
#
# Exercises to go with it: [13, a whole layer](exercises/ex13_whole_layer.ipynb), which is checked by this kit, and
# [7, a decoding step](exercises/ex07_decode_step.ipynb).

# %%
# %matplotlib inline
import inspect

import numpy as np

from gta_ref.exercises import bug_hunt as layer
from gta_ref.plots import verify as plots_verify
from gta_ref.verify import tolerance, verify
from gta_ref.verify.cases import suite
from gta_ref.verify.run import run_case
from gta_ref.verify.terms import largest_terms
from gta_ref.verify.truth import draw
from gta_ref.verify.vectors import make

# %% [markdown]
# ## A GTA layer with faults
#
# `gta_ref/exercises/bug_hunt.py` holds a GTA layer in plain NumPy, such as you might come across: 130 lines, forward
# and backward by hand, and it runs without an error. **Four of its lines are wrong, and a fifth is right only by
# convention.** Do not read all of it. The verification kit tells where to look, and then a few lines are enough.
#
# An implementation under test is a function `(arrays, settings) → named arrays`. Here is the forward, with the names of
# [docs/notation.md](../docs/notation.md); `a` is the dict of arrays (x, the parameters, the mask's bounds, …) and `c`
# the configuration. Every small function that it calls is a suspect.
#
# $$A_m = \mathrm{softmax}\!\left(\frac{Q_m K_{k(m)}^\top}{\sqrt{d_h}} + \text{mask}\right),\quad Z_m = A_m C_{c(m)},
# \quad O_i = (Z_{q(i)} W_{P,i}) \odot \sigma(x_t W_{G,i} + b_{G,i}),\quad Y = [O_0 \dots O_{n_h-1}]\, W_O$$


# %%
def show(*functions):
    """Print the source of functions."""
    print("\n\n".join(inspect.getsource(function).rstrip() for function in functions))


show(layer.forward)

# %% [markdown]
# ## The first report
#
# `capabilities` says what this code can do: a GTA layer over whole sequences with padding, forward and backward. Cases
# that need more (decoding, other mechanisms) are skipped and counted. `check` prints the counts and the first wrong
# stage. Often the kit also names the likely cause; `reveal` prints that, so that you can look for it first.

# %%
CAN = {"layer", "gta", "backward", "padding", "deterministic"}
CASE = "layer/gta-paper"
history = {}


def check(version):
    """Run all cases, and say which array is the first that is wrong."""
    report = verify(layer.run, suite="layer", dtype="float32", capabilities=CAN)
    history[version] = next(result for result in report.results if result.case == CASE)
    print(version, "→", ", ".join(f"{n} {status}" for status, n in report.counts.items() if n))
    print("first wrong:", report.blame[0] if report.blame else "nothing")
    return report


def reveal(report):
    """Print the cause that the kit names."""
    print("likely cause:", report.blame[1])


report = check("as found")
assert report.exit_status == 1  # a check failed; `gta-ref verify` exits with this status
assert report.blame[0] == "c"

# %% [markdown]
# Nearly everything is wrong, because an error in one array spoils everything that is computed from it. What helps is
# the *order*: the kit compares every array that is returned, in the order of computation, and reports the first one
# that is wrong. Here that is `c`, the latent, which one function makes.
#
# ## The hunt
#
# **1.** What is wrong here? Decide before you run the cell after the next.

# %%
show(layer.latents, layer.linear)

# %%
reveal(report)


def latents(a, c):
    return layer.split(layer.linear(a, "c"), c["n_c"])


layer.latents = latents
report = check("1 repaired")
assert report.blame[0] == "scores"

# %% [markdown]
# RoPE belongs on Q and K, whose scores depend on the distance between tokens. C holds values and is not rotated. (How
# does the kit know? It contains wrong implementations, and one of them produces the same wrong numbers for `c`.)
#
# The next fault appears. It was there all the time, hidden by the first one. `q` and `k` are right, so only three
# functions are left between them and the scores.
#
# **2.** Which of the three, and why?

# %%
show(layer.scale, layer.repeat, layer.visible)

# %%
reveal(report)


def scale(c):
    return c["head_dim"] ** -0.5


layer.scale = scale
report = check("2 repaired")
assert report.blame[0] == "values"

# %% [markdown]
# Queries and keys are $d_h$ wide, so their product is divided by $\sqrt{d_h}$. The latent's width $d_l$ has nothing to
# do with it. With $d_l = 2 d_h$, as in GTA-1B, this fault makes the maps too flat, and no error is raised.
#
# **3.** Scores, map and Z are right now; the values of the heads are not. What do these lines do to head 1, if there
# are 2 maps and 8 heads?

# %%
show(layer.decoder, layer.to_heads)

# %%
reveal(report)


def to_heads(u, c):  # (B, n_q, N, width) → (B, N, n_h·d_h)
    return layer.merge(u)


layer.to_heads = to_heads
report = check("3 repaired")
assert report.blame[0] == "d_scores"

# %% [markdown]
# Output heads are assigned to maps in runs: head $i$ uses map $i \mathbin{/\!/} (n_h/n_q)$. The code interleaved them:
# head $i$ used map $i \bmod n_q$. No shape reveals this. It is a permutation of the heads, which training from scratch
# would compensate for (in $W_G$ and $W_O$), but published weights give wrong results with it.
#
# **4.** The forward is right. In the backward, the gradient of the map is right too, and that of the scores is wrong.
# ([Notebook 4](04_backward_by_hand.ipynb) derives it.)

# %%
show(layer.softmax_backward)

# %%
reveal(report)


def softmax_backward(d_map, p):
    return p * (d_map - (p * d_map).sum(-1, keepdims=True))


layer.softmax_backward = softmax_backward
report = check("4 repaired")
assert report.blame[0] == "q"

# %% [markdown]
# All cases pass except one. The figure shows the repairs so far, one row per version, with the arrays of one case from
# left to right in the order in which they are computed. Every repair moves the first wrong array (framed) to the right,
# until none is left.

# %%
plots_verify.repairs(history, f"{CASE}, float32")

# %% [markdown]
# One case still fails, and its name says what is different there.

# %%
failed = [result for result in report.results if result.status == "fail"]
for result in failed:
    print(f"{result.case}: {result.text}")
assert [result.case for result in failed] == ["layer/gta-theta"]

# %% [markdown]
# **5.** This is the convention. θ, the base of RoPE's frequencies, is a field of the configuration; find the line that
# does not read it. With the usual value the line is right, and nearly every test uses just that. A model for long
# contexts often has another one, and then this code gives wrong results without an error.

# %%
show(layer.rotate)

# %% [markdown]
# The repair is one word, so we make it in the text of the function.

# %%
repaired = inspect.getsource(layer.rotate).replace("10000.0", 'c.get("rope_theta", 10000.0)')
exec(repaired, vars(layer))
report = check("5 repaired")
assert report.passed
assert report.counts["fail"] == 0

# %% [markdown]
# All cases pass.
#
# **Try it.** Which array do you expect to be wrong first if the gate comes from the *previous* token? Set
# `layer.gate_input = lambda a: np.roll(layer.linear(a, "g"), 1, axis=1)` and call `check("rolled")`.
#
# <details><summary>Answer</summary>
# <code>gate</code> itself, not <code>heads</code>: the stage <code>gate</code> is compared after its activation, and
# rows that are shifted by one are far outside any budget. <code>reveal</code> names the cause. The case without a gate
# now raises an error, because this line does not ask whether there is one.
# </details>
#
# **Try it.** Multiply the scale by 1.0001. Is the error found, and is its cause recognised?
#
# <details><summary>Answer</summary>
# It is found in <code>scores</code>, which are off by 140 times their budget in <code>layer/gta-paper</code>. No cause
# is named, because none of the known wrong implementations produces these numbers; the first wrong array and its worst
# element still say where to look. In bfloat16 every case passes, because two neighbouring numbers are further apart
# than this error.
# </details>
#
# ## How far off is too far
#
# A correct implementation in float32 does not equal the truth exactly. How far off it may be depends on the array. The
# kit derives a *budget*, the largest error allowed, for each array of each case. Look at how far apart the smallest and
# the largest budget are, and at the array whose true value is 0: with a single token the map is 1 whatever the query
# is, so the gradient of W_Q is 0, and yet a correct implementation leaves some rounding error there. No relative
# tolerance allows for that.

# %%
limits = [
    (budget, f"{name} of {case.name}")
    for case in suite("attention", "float32") + suite("layer", "float32")
    for name, budget in make(case.name, "float32").budgets.items()
    if budget > 0
]
print("smallest {:.0e}: {}\nlargest  {:.0e}: {}".format(*min(limits), *max(limits)))
one_token = make("layer/gta-one-token", "float32")
largest = np.abs(one_token.expected["d_w_q"]).max()
print(f"budget of d_w_q with one token: {one_token.budgets['d_w_q']:.0e}, largest value {largest}")
assert largest == 0
assert max(limits)[0] > 1e4 * min(limits)[0]

# %% [markdown]
# The budget is computed as follows. The factor is larger for gradients because they go through more operations:
#
# $$\text{budget} = c \cdot E + 2\,\mathrm{ulp}(S), \qquad c = 2 \text{ forward},\ 3 \text{ for gradients}$$
#
# E is the largest error of the plain computation in the same precision, measured over several orders of summation. S is
# the largest *term* that enters the array, because a sum may cancel to 0 and still carry the rounding errors of its
# terms; ulp(S) is the distance between neighbouring numbers at S. Let us compute some budgets ourselves.

# %%
vector = make(CASE, "float32")
problem = draw(vector.case, "float32")
E = tolerance.plain_errors(problem, vector.expected)
S = largest_terms(problem, vector.expected)
for name, factor in (("scores", 2), ("z", 2), ("d_scores", 3), ("d_w_q", 3)):
    mine = factor * E[name].largest + 2 * tolerance.ulp(S[name], "float32")
    largest = np.abs(vector.expected[name]).max()
    print(f"{name:9} E {E[name].largest:.1e}   S {S[name]:6.3f}   budget {mine:.1e}   largest value {largest:6.3f}")
    assert np.isclose(mine, vector.budgets[name])

# %% [markdown]
# A case must also be able to detect a wrong result. When a case is made, a result of zeros, the mean over the rows, and
# rows shifted by one must each be off by at least ten times the budget; otherwise the case is rejected (`check_sharp`).
#
# In bfloat16, an implementation usually widens its inputs to float32, computes in float32, and rounds what it returns.
# Five lines make ours do that. The inner stages may stay in float32; the required arrays must have the case's dtype.


# %%
def in_low_precision(arrays, settings):
    wide = {name: x if x.dtype.kind == "i" else x.astype(np.float32) for name, x in arrays.items()}
    required = {"out", "d_x", *(f"d_{name}" for name in arrays)}
    low = arrays["x"].dtype
    return {name: x.astype(low) if name in required else x for name, x in layer.run(wide, settings).items()}


report = verify(in_low_precision, suite="layer", dtype=["bfloat16", "float16"], capabilities=CAN)
print(report.counts)
assert report.passed

# %% [markdown]
# The figure shows the same layer in both precisions, array by array: how far off it is (dots) and how far off it may be
# (blue). The orange line is the error of a result of zeros. The grey bar from the budget up to this line is the range
# of errors that the kit can detect in that precision: five to six decades in float32, one to two in bfloat16. So check
# in float32 first, and in bfloat16 check only what float32 cannot reveal. (In the lower panel, the dots of the inner
# stages are so low because this code keeps those stages in float32; the required arrays are rounded once.)

# %%
CASE_16 = "layer/gta-grouped"  # gta-paper is not sharp enough in bfloat16, so it does not exist there
runs = [(make(CASE_16, "float32"), layer.run), (make(CASE_16, "bfloat16"), in_low_precision)]
answers = [(v, run_case(f, v)) for v, f in runs]
assert all(result.status == "pass" for _, result in answers)
plots_verify.errors_and_budgets(answers)

# %% [markdown]
# ## Any other language: exchange files
#
# `gta-ref vectors export` writes one safetensors file per case; your program reads the inputs and writes its results
# under the same file names, and `gta-ref verify` compares them. Below, each line that begins with `$` is a command that
# you would type.

# %%
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

# %%
place = tempfile.TemporaryDirectory()
folder = Path(place.name)
plain = {**os.environ, "COLUMNS": "110"}
plain.pop("FORCE_COLOR", None)  # which Jupyter sets


def shell(line):
    print("$", line)
    command = [sys.executable, "-m", "gta_ref.cli", *line.split()[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=plain)
    print("\n".join(text.rstrip() for text in (done.stdout + done.stderr).splitlines()).strip())
    return done.returncode


assert shell("gta-ref vectors export --suite layer --dtype float32 --out vectors") == 0

# %% [markdown]
# Reading the format takes about ten lines in any language: 8 bytes hold a length, then comes a JSON text of that length
# with each tensor's dtype, shape and position, and then come the tensors' bytes. `input.x` is what your program gets,
# `expected.out` is the truth in float64, and the metadata describes the case.

# %%
NUMPY_NAMES = {"F32": np.float32, "F64": np.float64, "I64": np.int64}


def read_by_hand(path):
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), raw[8 + length :]
    about = json.loads(header.pop("__metadata__")["gta_ref"])
    tensors = {}
    for name, entry in header.items():
        begin, end = entry["data_offsets"]
        tensors[name] = np.frombuffer(data[begin:end], NUMPY_NAMES[entry["dtype"]]).reshape(entry["shape"])
    return tensors, about


tensors, about = read_by_hand(folder / "vectors/layer-gta-paper.safetensors")
for name in ("input.x", "input.w_p", "input.d_out", "expected.z", "expected.d_w_p"):
    print(f"{name:15} {tensors[name].dtype} {tensors[name].shape}")
print("settings:", about["settings"]["config"])
print("required:", *about["required"])

# %% [markdown]
# Our "program" is the layer above. It answers three of the files, with a mistake that is typical of moving between
# languages: in one of them, the gradient of W_O is written column by column.

# %%
from safetensors.numpy import save_file

(folder / "mine").mkdir()
for name in ("layer-gta-paper", "layer-gta-released", "layer-gta-grouped"):
    tensors, about = read_by_hand(folder / f"vectors/{name}.safetensors")
    inputs = {key.removeprefix("input."): x for key, x in tensors.items() if key.startswith("input.")}
    answer = layer.run(inputs, about["settings"])
    if name == "layer-gta-grouped":
        answer["d_w_o"] = answer["d_w_o"].T.reshape(answer["d_w_o"].shape)
    required = {key: np.ascontiguousarray(answer[key]) for key in about["required"]}
    save_file(required, folder / f"mine/{name}.safetensors")

for path in folder.glob("vectors/*"):  # to keep the table short: a case without an answer would be listed as missing
    if not (folder / "mine" / path.name).exists():
        path.unlink()

# %%
status = shell("gta-ref verify mine --against vectors --wanted required --json report.json")
assert status == 1  # 1: something is wrong; 0: right; 2: wrong usage; 3: an array is missing

# %% [markdown]
# `explain` shows one case array by array. Everything except `d_w_o` is right, and no known cause fits, because the
# error is in how the result is written, not in how it is computed.

# %%
assert shell("gta-ref verify explain report.json --case layer/gta-grouped") == 0

# %% [markdown]
# ## Inside a test suite: the pytest plugin
#
# The plugin comes with the package: its fixture `gta_case` and its marker `gta_suite` turn the cases into tests in your
# own suite. Here we write the repaired layer into a module, with a short test file next to it.

# %%
repairs = (latents, scale, to_heads, softmax_backward)  # a later definition of a name replaces an earlier one
source = Path(layer.__file__).read_text().replace("10000.0", 'c.get("rope_theta", 10000.0)')
source += "\n\n".join(inspect.getsource(repair).replace("layer.", "") for repair in repairs)
TEST = """
import pytest
from mine import run

@pytest.mark.gta_suite("layer", capabilities={"layer", "gta", "backward", "padding"})
def test_my_layer(gta_case):
    gta_case.run(run)
"""

# %%
from importlib.util import find_spec


def run_pytest(module, *options):
    if not find_spec("pytest"):
        return "skipped: pytest is not installed (python -m pip install pytest)"
    (folder / "mine.py").write_text(module)
    (folder / "test_mine.py").write_text(TEST)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--color=no", *options, "test_mine.py"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout


print(run_pytest(source))

# %% [markdown]
# A failing test prints what the report said. Here we remove the row sum again and run one case:

# %%
broken = source.replace("(d_map - (p * d_map).sum(-1, keepdims=True))", "d_map")
assert broken != source
print(run_pytest(broken, "-k", "gta-paper"))
place.cleanup()

# %% [markdown]
# **Try it.** Make `layer.run` decode: when `settings` has `chunks`, a list of numbers of tokens, the tokens arrive in
# chunks of these sizes, and K and C come from a cache. Return `out`, and the final `cache_k` and `cache_c`; add
# `"decode"` to `CAN`. What do you expect to be wrong first if you cache the keys before RoPE?
#
# <details><summary>Answer</summary>
# <code>cache_k</code>, and the kit recognises the cause. The convention is that a cache holds rotated keys: a key's
# angle depends only on its own position and never changes. <code>docs/examples/gta_torch.py</code> contains a decoding
# step.
# </details>
#
# ## Summary
#
# - Look at the first wrong array in the order of computation; the arrays after it are spoiled by it. Fix it, run the
#   kit again, and the next bug appears.
# - Each array of each case has its own budget, derived from a measured error; a case that cannot distinguish garbage
#   from a correct result is rejected. In float32, an error of 10⁻⁵ of an array's size is detected; in bfloat16, one of
#   a few hundredths.
# - The same cases serve a Python function (`verify`), a program in any language (`gta-ref vectors`, `gta-ref verify`)
#   and a test suite (pytest). More in [docs/verify.md](../docs/verify.md).
#
# [← 7c. Choosing sizes](07c_choosing_sizes.ipynb) | [9. A context that no machine
# holds →](09_a_context_that_no_machine_holds.ipynb)
