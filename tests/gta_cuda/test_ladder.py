"""The ladders in Numba's simulator: every step against the definition, and the wavefronts that ``predict`` counts.

`NUMBA_ENABLE_CUDASIM=1 pytest tests/gta_cuda/test_ladder.py`; `make test-cudasim` runs it.
"""

import inspect

import numpy as np
import pytest
from numba import cuda, uint16

from gta_cuda import ladder, ladder_steps, launch, predict, step5_mma, step5_tiles
from gta_ref.core import Mask
from tests.gta_cuda.simulated import BFLOAT16, CASES, assert_as_close, assert_rounded, exact, make


@pytest.mark.parametrize("step", ladder.FIRST)
def test_first_steps_of_the_ladder(step, watch, rng):
    for case in ("tails, heads differ, causal", "masked rows"):
        inputs, mask = make(CASES[case], np.float32, rng)
        measures = {"threads": 4} if step == "naive" else {"threads": 4, "keys": 4}
        got = ladder.run_first(step, *inputs, mask, 0.4, **measures)
        for one, plain, truth in zip(got, exact(inputs, mask, 0.4, np.float32), exact(inputs, mask, 0.4), strict=False):
            assert_as_close(one, plain, truth)


# (B, n_q, n_k, n_v, N_q, N_k, d_k, d_v), mask
FORWARDS = {
    # 21 = 16 + 5 queries, 37 = 2 · 16 + 5 keys
    "tails, heads differ": ((1, 2, 2, 1, 21, 37, 16, 32), Mask()),
    # sequence 0: rows see nothing; sequence 1 begins and ends within a tile
    "masked rows": ((2, 1, 1, 1, 5, 40, 32, 16), Mask(q_start=[-2, 30], k_start=[0, 3], k_stop=[9, 38])),
    "not causal": ((1, 1, 1, 1, 3, 33, 16, 16), Mask(causal=False, k_start=2, k_stop=31)),
}


@pytest.mark.parametrize("step", ladder_steps.MMA)
@pytest.mark.parametrize("case", FORWARDS)
def test_first_steps_on_tensor_cores(step, case, watch, rng):
    inputs, mask = make(FORWARDS[case], BFLOAT16, rng)
    scale = 3 * inputs[0].shape[3] ** -0.5
    z, lse = ladder_steps.run_mma(step, *inputs, mask, scale, rows=16, keys=16)
    assert z.dtype == BFLOAT16
    assert_rounded(z, inputs, mask, scale)
    assert_as_close(lse, exact(inputs, mask, scale, np.float32)[1], exact(inputs, mask, scale)[1])


DECODES = {
    # sequence 0 has two tiles per split; sequence 1 sees nothing; in sequence 2, one of three splits is empty
    "ragged": ((3, 3, 1, 1, 1, 105, 16, 32), Mask(k_start=[3, 0, 70], k_stop=[105, 0, 72])),
    # two runs of two maps each share a key head; all share the latents
    "heads differ": ((1, 4, 2, 1, 1, 70, 32, 16), Mask(q_start=60)),
    "not causal": ((1, 2, 1, 2, 1, 33, 16, 16), Mask(causal=False, k_start=1)),
}


@pytest.mark.parametrize("step", ladder_steps.DECODE)
@pytest.mark.parametrize("case", DECODES)
def test_steps_of_the_decode(step, case, watch, rng):
    inputs, mask = make(DECODES[case], np.float32, rng)
    scale = 3 * inputs[0].shape[3] ** -0.5
    measures = {"threads": 32, "splits": 3, **({"keys": 8} if step == "decode_wide" else {})}
    got = ladder_steps.run_decode(step, *inputs, mask, scale, **measures)
    plain, truth = exact(inputs, mask, scale, np.float32), exact(inputs, mask, scale)
    for one, other, true in zip(got, plain, truth, strict=False):
        assert_as_close(one, other, true)
    assert not got[0][np.isneginf(got[1])].any()


@pytest.mark.parametrize("step", ["decode_split", "decode_wide"])
def test_one_split_needs_no_merge(step, watch, rng, monkeypatch):
    monkeypatch.setattr(ladder_steps, "merge", lambda *a: pytest.fail("there is nothing to merge"))
    inputs, mask = make(DECODES["not causal"], np.float32, rng)
    measures = {"threads": 32, **({"keys": 8} if step == "decode_wide" else {})}
    z, _ = ladder_steps.run_decode(step, *inputs, mask, 0.3, splits=1, **measures)
    np.testing.assert_allclose(z, exact(inputs, mask, 0.3)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", [*ladder.steps(), *ladder.decode_steps(), *ladder.backward_steps()])
def test_every_step_runs_as_the_command_runs_it(name, capsys, monkeypatch):
    """The command itself; the steps that other tests watch are computed once more, those of the engine for the first time."""
    assert ladder.main([name]) == 0
    line = capsys.readouterr().out
    error = float(line.split("relative error ")[1].split()[0])
    assert line.startswith(name)
    assert error < (4e-3 if ladder.dtype_of(name) == "bfloat16" else 1e-6)


def test_a_wrong_step_is_seen(capsys, monkeypatch):
    """The command compares: without the last key, the error is no rounding error."""

    def short(q, k, v, mask, scale):
        return launch.forward(q, k[:, :, :-1].copy(), v[:, :, :-1].copy(), mask, scale, ladder.Tile(8, 8, 4, 4))

    ladder.show("forward", short)
    assert float(capsys.readouterr().out.split("relative error ")[1].split()[0]) > 1e-2


def test_what_the_steps_refuse():
    q, k, v = (np.zeros((1, 2, 1, width), np.float32) for width in (24, 24, 16))
    with pytest.raises(ValueError, match=r"^d_k=24, d_v=16 must be powers of two from 4 to 128$"):
        ladder_steps.run_decode("decode_wide", q, k, v, Mask(), 1.0)
    with pytest.raises(ValueError, match=r"^d_k=24, d_v=16 must be multiples of 16, at most 128$"):
        ladder_steps.mma_step("async", 24, 16)
    with pytest.raises(ValueError, match=r"^d_k=64, d_v=144 must be multiples of 16, at most 128$"):
        ladder_steps.mma_step("async", 64, 144)
    with pytest.raises(ValueError, match=r"^2 queries per map; the decode's ladder takes one$"):
        ladder_steps.run_decode("decode_naive", *(np.zeros((1, 1, 2, 16), np.float32),) * 3, Mask(), 1.0)
    odd = np.zeros((1, 1, 3, 60), BFLOAT16)
    with pytest.raises(ValueError, match=r"step 'mma' needs rows that are$|must be multiples of 16"):
        ladder_steps.run_mma("mma", odd, odd, odd, Mask(), 1.0)


@pytest.mark.parametrize("step", ["tiles", "online"])
def test_widths_that_need_too_much_shared_memory_are_refused(step):
    widest = {"tiles": (384, 384), "online": (192, 192)}[step]  # 32 keys of 384 floats are 48 KiB
    ladder.first_step(step, *widest)
    with pytest.raises(ValueError, match=r"d_v=\d+ need [\d,]+ bytes of shared memory per block; expected 49,152"):
        ladder.first_step(step, widest[0], widest[1] + 1)


def test_the_ladder_names_a_step_that_it_does_not_have(capsys):
    assert ladder.main(["naive", "fast"]) == 2
    out, message = capsys.readouterr()
    assert out == ""
    assert message.startswith("step 'fast' must be one of naive, tiles, online, forward, mma, ")
    assert message.endswith(", decode_bf16, backward_whole, backward, backward_bf16\n")


# ---- what predict counts


def wavefronts(indices, halves=1):
    """Cycles of a warp's read: the most different words of 4 bytes that a bank has to deliver.

    indices: of elements of 2 bytes; each thread reads `halves` of them, one after the other.
    """
    words = np.unique(np.asarray(indices)[:, None] // 2 + np.arange(-(-halves // 2)))
    return int(np.bincount(words % 32).max())


@pytest.mark.parametrize("step", ladder_steps.MMA)
def test_wavefronts_are_those_of_the_addresses(step, monkeypatch):
    """The wavefronts of a warp and step, from every address with which it reads its fragments."""
    ideas, total = step5_mma.STEPS[step], 0
    noted: list[list[int]] = []

    class Shared:
        """Zeros that note down the indices at which they are read."""

        def __getitem__(self, i):
            noted[-1].append(int(i))
            return 0

    def matrices(shared, at):
        noted[-1].append(int(at) // 2)
        return 0, 0, 0, 0

    monkeypatch.setattr(step5_tiles, "ldmatrix4_at", matrices)
    monkeypatch.setattr(step5_tiles, "ldmatrix4_t_at", matrices)
    keys, values = step5_tiles.make_fragments(64, 128, ideas.swizzled, ideas.by_pairs)
    for fragment, width, tops in ((keys, 64, 64), (values, 128, 64)):
        for top in range(0, tops, 16):
            for left in range(0, width, 16):
                threads = []
                for lane in range(32):
                    noted.append([])
                    fragment(Shared(), 0, top, left, lane)
                    threads.append(noted[-1])
                reads = np.array(threads).T  # (reads of a thread, 32)
                for read in reads:
                    if ideas.by_pairs:
                        total += wavefronts(read)
                    else:  # 8 threads name the rows of one matrix, and four matrices come one after the other
                        total += sum(wavefronts(read[8 * m : 8 * m + 8], 8) for m in range(4))
    shared = predict.FORWARD[step][1].shared
    assert 8 * total + 192 == shared
    assert f"{total:4}" in inspect.getdoc(step5_mma)


def test_fragments_are_the_same_however_they_are_read(rng):
    """By pairs and by ldmatrix, with and without the swizzle, in one warp each."""
    tile = rng.integers(0, 2**16, (16, 64)).astype(np.uint16)
    found = []
    for swizzled, by_pairs in ((False, True), (False, False), (True, True), (True, False)):
        place = step5_tiles.make_place(64, swizzled)
        keys, values = step5_tiles.make_fragments(64, 64, swizzled, by_pairs)
        out = np.zeros((32, 8), np.uint32)

        def kernel(given, out, place=place, keys=keys, values=values):
            shared = cuda.shared.array(1024, uint16)
            t = cuda.threadIdx.x
            for e in range(t, 1024, 32):
                shared[place(e // 64, e % 64)] = given[e // 64, e % 64]
            cuda.syncthreads()
            for i, x in enumerate((*keys(shared, 0, 0, 16, t), *values(shared, 0, 0, 48, t))):
                out[t, i] = x

        cuda.jit(kernel)[1, 32](tile, out)
        found.append(out)
    for other in found[1:]:
        np.testing.assert_array_equal(other, found[0])
    pair = int(tile[5, 16 + 6]) | int(tile[5, 16 + 7]) << 16  # key 5 = lane // 4, columns 6 and 7 = 2 (lane mod 4)
    assert found[0][5 * 4 + 3, 0] == pair


# ---- the first run on a GPU, as far as it goes here


def test_every_step_has_a_prediction():
    assert list(ladder.steps()) == list(predict.FORWARD)
    assert list(ladder.decode_steps()) == list(predict.DECODE)
    assert list(ladder.backward_steps()) == list(predict.BACKWARD)


def test_the_first_run_checks_the_steps_and_records_the_predictions(monkeypatch, tmp_path):
    """With some steps, at tiny sizes, and without a clock."""
    from gta_cuda.first_run import ladder as first_run
    from gta_cuda.first_run import results
    from gta_cuda.first_run.cases import Case

    def some(steps, *names):
        return lambda: {name: steps()[name] for name in names}

    monkeypatch.setattr(ladder, "steps", some(ladder.steps, "tiles", "swizzle"))
    monkeypatch.setattr(ladder, "decode_steps", some(ladder.decode_steps, "decode_rows"))
    monkeypatch.setattr(ladder, "backward_steps", some(ladder.backward_steps, "backward"))
    tiny, decode = Case(1, 2, 1, 1, 5, 9, 16, 16), Case(1, 2, 1, 1, 1, 9, 16, 16)
    for name, case in (("SMALL", tiny), ("LARGE", tiny), ("SMALL_DECODE", decode), ("LARGE_DECODE", decode)):
        monkeypatch.setattr(first_run, name, case)
    timed = []
    monkeypatch.setattr(first_run, "milliseconds", lambda work: timed.append(work()) or 2.0)
    monkeypatch.setenv(results.VARIABLE, str(tmp_path / "results.jsonl"))
    first_run.main()
    found = {one["name"]: one for one in results.read(tmp_path / "results.jsonl")}
    assert list(found) == [f"ladder, {name}" for name in ("tiles", "swizzle", "decode_rows", "backward")]
    assert len(timed) == 4
    for one in found.values():
        assert one["ok"] is True, one
        assert one["ms"] == 2.0
        assert one["predicted ms"] > 0
    assert set(found["ladder, backward"]["errors"]) == {"z", "lse", "dq", "dk", "dv"}
