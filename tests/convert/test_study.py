"""The study of conversion on a tiny model: what it finds, which files it keeps, and how a stopped one continues."""

import dataclasses
import functools
import json
import re
import shutil

import numpy as np
import pytest

from gta_ref.convert import heal, judge, sharing, study, texts, whole
from gta_ref.convert.heal import Settings
from gta_ref.convert.plan import Plan, Point, quick
from gta_ref.convert.sizes import Sizes
from gta_ref.convert.study import Study
from gta_ref.files import write_json
from gta_ref.lm import generate, train
from gta_ref.mechanisms import gqa
from tests.convert import tiny

BUDGET = Settings(layer_steps=3, steps=4, batch=2, length=16)
OTHER = Settings(layer_steps=3, steps=4, batch=2, length=16, seed=1)
PLAN = Plan(
    (
        Point("6 maps, d_l 5", Sizes(latent_dim=5)),
        Point("3 maps, d_l 6", Sizes(n_q=3, latent_dim=6, gate="none"), budgets=(BUDGET, OTHER)),
        Point("3 maps in 1 layer", Sizes(n_q=3, latent_dim=7), 1, (BUDGET,)),
    ),
    fitted=(2, 48),
    judged=(3, 40),
)
FILES = {
    "study",
    "sharing",
    "original",
    "6_maps-d_l_5",
    "3_maps-d_l_6",
    "3_maps-d_l_6-3+4_steps-seed_0",
    "3_maps-d_l_6-3+4_steps-seed_1",
    "3_maps_in_1_layer",
    "3_maps_in_1_layer-3+4_steps-seed_0",
}


@pytest.fixture(autouse=True)
def few_reads(monkeypatch):
    """The texts are read once, and the samples are short."""
    monkeypatch.setattr(texts, "pieces", PIECES)
    monkeypatch.setattr(study, "_SAMPLE", 5)
    monkeypatch.setattr(study, "SAVE_EVERY", 2)


PIECES = functools.cache(texts.pieces)


def made(folder, plan=PLAN, corpus=None, **callbacks):
    return Study(tiny.language_model(), plan, corpus or tiny.corpus(), folder, **callbacks)


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What an uninterrupted study finds, its folder, and what it has told."""
    folder, told = tmp_path_factory.mktemp("study") / "inner", []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(texts, "pieces", PIECES)
        patch.setattr(study, "_SAMPLE", 5)
        return made(folder, tell=told.append).run(), folder, told


def without_seconds(found):
    """What does not depend on the speed of the machine."""
    points = [{**point, "healed": [{**one, "seconds": None} for one in point["healed"]]} for point in found["points"]]
    return {**found, "points": points}


@pytest.fixture
def no_work(monkeypatch):
    def work(*arguments, **options):
        raise AssertionError("the work has begun")

    for module, name in (
        (whole, "convert"),
        (heal, "begin"),
        (judge, "beside"),
        (generate, "greedy"),
        (sharing, "costs"),
    ):
        monkeypatch.setattr(module, name, work)


def test_what_is_found(found):
    result, _, _ = found
    assert json.loads(json.dumps(result)) == result
    assert result["model"] == "tiny"
    assert result["text"] == tiny.corpus().name
    assert result["fitted_tokens"] == 2 * 2 * 48
    assert result["judged_tokens"] == {"prose": 120, "code": 120}
    assert result["sharing"]["n_q"] == 3
    assert (result["original"]["maps"], result["original"]["cache_elements"]) == (12, 16)
    assert [point["name"] for point in result["points"]] == [point.name for point in PLAN.points]
    assert [point["maps"] for point in result["points"]] == [12, 6, 9]
    assert [point["cache_elements"] for point in result["points"]] == [8 + 5, 4 + 6, (4 + 8) / 2 + 7]
    assert [point["gate"] for point in result["points"]] == ["sigmoid", "none", "sigmoid"]
    assert [len(point["healed"]) for point in result["points"]] == [0, 2, 1]
    for of in (result["original"], *result["points"], *result["points"][1]["healed"]):
        assert of["held_out"].keys() == {"prose", "code"}
        assert list(of["samples"]) == list(study.PROMPTS)
    for one in result["original"]["held_out"].values():
        assert (one["divergence"], one["agreement"]) == (0, 1)


def test_the_figures_are_those_of_its_parts(found):
    """Of the conversion, of the two healings, of the judgement and of the samples, each called here by itself."""
    result, teacher = found[0]["points"][1], tiny.language_model()
    fitted = np.concatenate([texts.windows(tiny.ENCODE, kind, 2, 48, held_out=False) for kind in texts.KINDS])
    original = tiny.original("float32")
    params, config, reports = whole.convert(*original, PLAN.points[1].sizes, fitted)
    assert result["keys_lost"] == [report.keys_lost for report in reports]
    assert result["values_lost"] == [report.values_lost for report in reports]
    assert result["shared_layers"] == [0, 1]
    models = [(params, result)]
    for budget, healed in zip((BUDGET, OTHER), result["healed"], strict=True):
        healing = heal.begin(params, config, budget, tiny.corpus())
        heal.advance(healing, original, tiny.corpus())
        assert healed["losses"] == healing.losses
        assert Settings(**healed["settings"]) == budget
        assert healed["seconds"] > 0
        models.append((healing.params, healed))
    for some, of in models:
        for kind in texts.KINDS:
            held_out = texts.windows(tiny.ENCODE, kind, 3, 40, held_out=True)
            assert of["held_out"][kind] == judge.beside(some, config, original, held_out)._asdict()
        for prompt, sample in of["samples"].items():
            ids = np.array([tiny.ENCODE(prompt)])
            expected = generate.greedy(some, ids, config, 5)[0, -5:]
            assert sample == teacher.tokenizer.decode(expected.tolist())


def test_the_layers_that_share_are_chosen_by_text_that_is_learnt_from(found):
    result = found[0]
    fitted = np.concatenate([texts.windows(tiny.ENCODE, kind, 2, 48, held_out=False) for kind in texts.KINDS])
    expected = list(sharing.costs(tiny.original("float32"), Sizes(n_q=3), fitted[::2], fitted[1::2]))
    assert result["sharing"]["divergence"] == expected
    assert result["points"][0]["shared_layers"] == []
    assert result["points"][2]["shared_layers"] == [int(np.argmin(expected))]


@pytest.mark.parametrize("alone", [(0.2, 0.1), (0.1, 0.2)])
def test_the_cheapest_layers_share(alone, tmp_path, monkeypatch):
    monkeypatch.setattr(sharing, "costs", lambda *arguments: iter(alone))
    plan = Plan((Point("some", Sizes(n_q=2), 1),), PLAN.fitted, PLAN.judged)
    result = made(tmp_path, plan).run()
    assert result["sharing"]["divergence"] == list(alone)
    assert result["points"][0]["shared_layers"] == [int(np.argmin(alone))]
    assert result["points"][0]["maps"] == 2 + 6


def test_every_conversion_comes_before_the_first_healing(found):
    whats = [told.what for told in found[2]]
    kinds = ["healing" if "healing, loss" in what else "converting" for what in whats]
    assert kinds.index("healing") >= sum(what.endswith("converting") for what in whats[: kinds.index("healing")]) >= 6
    healed = list(dict.fromkeys(what.split(": ")[0] for what in whats if "healing, loss" in what))
    label = "3+4 steps, seed"
    assert healed == [f"3 maps, d_l 6, {label} 0", f"3 maps in 1 layer, {label} 0", f"3 maps, d_l 6, {label} 1"]
    assert [told[1:] for told in found[2][:2]] == [(1, 2), (2, 2)]


def test_a_second_run_computes_nothing(found, no_work):
    result, folder, _ = found
    assert {path.stem for path in folder.iterdir()} == FILES
    assert {path.suffix for path in folder.iterdir()} == {".json"}
    assert made(folder).run() == result


class Stop(Exception):  # noqa: N818
    pass


@pytest.mark.parametrize("done", [3, 6])
def test_a_study_that_is_stopped_in_a_healing_continues_it(done, found, tmp_path):
    """From the last step that was saved, and with the same result."""
    label = "3 maps, d_l 6, 3+4 steps, seed 1: healing"

    def stop(told):
        if told.what.startswith(label) and told.done == done:
            raise Stop

    with pytest.raises(Stop):
        made(tmp_path, tell=stop).run()
    assert {path.stem for path in tmp_path.iterdir()} == FILES - {"3_maps-d_l_6-3+4_steps-seed_1"} | {"healing"}
    told = []
    result = made(tmp_path, tell=told.append).run()
    assert [one.done for one in told if one.what.startswith(label)] == list(range((done - 1) // 2 * 2 + 1, 8))
    assert not any("seed 0" in one.what for one in told)
    assert without_seconds(result) == without_seconds(found[0])
    assert {path.stem for path in tmp_path.iterdir()} == FILES


def test_what_is_saved_of_another_healing_is_not_continued(found, tmp_path):
    """A stopped healing whose point has left the plan."""

    def stop(told):
        if "healing" in told.what and told.done == 5:
            raise Stop

    with pytest.raises(Stop):
        made(tmp_path, tell=stop).run()
    assert (tmp_path / "healing.safetensors").is_file()
    rest = Plan(PLAN.points[2:], PLAN.fitted, PLAN.judged)
    (point,) = without_seconds(made(tmp_path, rest).run())["points"]
    assert point == without_seconds(found[0])["points"][2]
    assert not (tmp_path / "healing.safetensors").exists()


def test_a_healing_that_diverges_keeps_what_was_found(found, tmp_path):
    wild = Settings(layer_steps=3, steps=4, batch=2, length=16, layer_rate=1e30)
    plan = Plan((Point("wild", Sizes(n_q=3), budgets=(wild,)), *PLAN.points[2:]), PLAN.fitted, PLAN.judged)
    with pytest.raises(train.DivergedError, match="step 2"):
        made(tmp_path, plan).run()
    assert {path.stem for path in tmp_path.iterdir()} == {"study", "sharing", "original", "wild", "3_maps_in_1_layer"}


@pytest.mark.parametrize("content", ["", "{", "null", "{}", "[1]", '{"a": 1, "a": 2}'])
@pytest.mark.parametrize("name", sorted(FILES))
def test_a_damaged_result(content, name, found, tmp_path, no_work):
    for path in found[1].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / f"{name}.json").write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{tmp_path / name}.json: ")) as error:
        made(tmp_path).run()
    assert str(error.value).isprintable()


def test_a_damaged_healing(tmp_path):
    def stop(told):
        if "healing" in told.what and told.done == 5:
            raise Stop

    with pytest.raises(Stop):
        made(tmp_path, tell=stop).run()
    (tmp_path / "healing.safetensors").write_bytes(b"x" * 100)
    with pytest.raises(ValueError, match=r"healing\.safetensors: "):
        made(tmp_path).run()


def test_the_folder_of_another_study(found, no_work):
    """Its results would be mixed with those of other texts."""
    folder, more = found[1], texts.Corpus({**tiny.corpus().texts, "more": "x"}, tiny.ENCODE)
    for other, message in (
        (made(folder, Plan(PLAN.points, (2, 48), (3, 41))), r"judged=\[3, 40\]; expected \[3, 41\]"),
        (made(folder, Plan(PLAN.points, (1, 48), (3, 40))), r"fitted=\[2, 48\]; expected \[1, 48\]"),
        (made(folder, corpus=more), "text='first .*'; expected 'first .*more 1 characters"),
    ):
        with pytest.raises(ValueError, match=rf"{re.escape(str(folder))}: the results there have {message}.*; choose"):
            other.run()


@pytest.mark.parametrize("plan", [Plan(), quick()], ids=["whole", "quick"])
def test_the_plans_fit_smollm2(plan):
    attention = gqa.Config(576, 9, 64, 3)
    names = [point.name for point in plan.points]
    labels = [study._label(point, budget) for point in plan.points for budget in point.budgets]
    assert len({*names, *labels}) == len(names) + len(labels)  # each has a file of its own
    for point in plan.points:
        made = point.sizes.config(attention)
        assert point.layers is None or 0 < point.layers < 30
        stated = dict(part.rpartition(" ")[::2] for part in point.name.split(", ") if part.startswith(("n_k", "d_l")))
        assert int(point.name.split()[0]) == made.n_q
        assert int(stated.get("d_l", made.latent_dim)) == made.latent_dim
        assert int(stated.get("n_k", made.n_k)) == made.n_k
        assert ("no gate" in point.name) == (made.gate == "none")
        assert point.layers is None or f"in {point.layers} layers" in point.name


def test_a_result_is_written_whole(found, tmp_path, monkeypatch):
    """A study that is stopped while it writes a result computes it again."""

    def stop(path, content):
        if path.name == "original.json":
            raise Stop
        write_json(path, content)

    monkeypatch.setattr(study, "write_json", stop)
    with pytest.raises(Stop):
        made(tmp_path).run()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sharing.json", "study.json"]
    monkeypatch.undo()
    monkeypatch.setattr(texts, "pieces", PIECES)
    monkeypatch.setattr(study, "_SAMPLE", 5)
    assert without_seconds(made(tmp_path).run()) == without_seconds(found[0])


def test_a_healing_with_other_settings(found, no_work):
    """A result that was found with another rate is not taken for one of this plan, although its file has the name."""
    folder = found[1]
    faster = dataclasses.replace(PLAN.points[1], budgets=(dataclasses.replace(BUDGET, rate=0.125), OTHER))
    plan = dataclasses.replace(PLAN, points=(PLAN.points[0], faster, PLAN.points[2]))
    message = (
        rf"{re.escape(str(folder))}: .*, was healed there with .*'rate': 0\.\d+.*; expected .*'rate': 0\.125.*; choose"
    )
    with pytest.raises(ValueError, match=message):
        made(folder, plan).run()


def test_a_healing_with_other_settings_is_refused_before_any_work(found, no_work, tmp_path):
    healed = "3_maps-d_l_6-3+4_steps-seed_1"
    for name in ("study", healed):
        shutil.copy(found[1] / f"{name}.json", tmp_path)
    slower = dataclasses.replace(PLAN.points[1], budgets=(BUDGET, dataclasses.replace(OTHER, rate=0.125)))
    with pytest.raises(ValueError, match=r"3 maps, d_l 6, 3\+4 steps, seed 1, was healed there with"):
        made(tmp_path, dataclasses.replace(PLAN, points=(PLAN.points[0], slower))).run()
