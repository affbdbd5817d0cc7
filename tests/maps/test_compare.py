"""Similarity of attention maps, its baselines and the clusters: by hand, by SciPy, by planted answers, on models."""

import itertools
import json

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from gta_ref.lm import block, model, small
from gta_ref.maps import clusters as clustering
from gta_ref.maps import compare, report


def softmax(scores):
    """Return the causal maps of scores (..., N, N)."""
    seen = np.where(np.tri(scores.shape[-1], dtype=bool), scores, -np.inf)
    weights = np.exp(seen - seen.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def random_maps(rng, *shape, sharpness=2.0):
    return softmax(sharpness * rng.standard_normal(shape))


# cosine and divergence


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_identical_heads_are_alike(rng, dtype):
    one = random_maps(rng, 1, 20, 20).astype(dtype)
    maps = compare.without(np.repeat(one, 3, axis=0), [])
    found = compare.compare(maps, maps)
    np.testing.assert_allclose(found.cosine, 1, rtol=0, atol=20 * np.finfo(dtype).eps)
    np.testing.assert_array_equal(found.divergence, 0)


def test_maps_without_a_common_key():
    """One head looks at the query's own token, the other at the first."""
    own, first = np.eye(6), np.zeros((6, 6))
    first[:, 0] = 1
    maps = compare.without(np.stack([own, first]), [])
    found = compare.compare(maps, maps)
    np.testing.assert_allclose(found.cosine, [[1, 0], [0, 1]], rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.divergence, [[0, 1], [1, 0]], rtol=0, atol=1e-15)


def test_by_hand():
    """Query 1 has (½, ½) against (1, 0), query 2 the same row in both; query 0 is not counted."""
    a, b = np.zeros((1, 3, 3)), np.zeros((1, 3, 3))
    a[0] = [[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]]
    b[0] = [[1, 0, 0], [1, 0, 0], [0.25, 0.25, 0.5]]
    found = compare.compare(compare.without(a, []), compare.without(b, []))
    # H(¾, ¼) − ½ H(½, ½) − ½ H(1, 0) = 2 − ¾ log2 3 − ½
    assert found.divergence[0, 0] == pytest.approx((1.5 - 0.75 * np.log2(3)) / 2, abs=1e-15)
    assert found.cosine[0, 0] == pytest.approx((1 / np.sqrt(2) + 1) / 2, abs=1e-15)
    # in the cosine of flattened maps the sharper rows count for more
    stacked = compare.without(np.concatenate([a, b]), [])
    want = (0.5 + 0.375) / np.sqrt((0.5 + 0.375) * (1 + 0.375))
    assert compare.flat_cosine(stacked)[0, 1] == pytest.approx(want, abs=1e-15)


def test_against_scipy_row_by_row(rng):
    a, b = random_maps(rng, 3, 12, 12), random_maps(rng, 4, 12, 12)
    found = compare.compare(compare.without(a, []), compare.without(b, []))
    for i, j in itertools.product(range(3), range(4)):
        rows = [(a[i, t, : t + 1], b[j, t, : t + 1]) for t in range(1, 12)]
        cosines = [p @ q / np.linalg.norm(p) / np.linalg.norm(q) for p, q in rows]
        assert found.cosine[i, j] == pytest.approx(np.mean(cosines), abs=1e-14)
        assert found.divergence[i, j] == pytest.approx(
            np.mean([jensenshannon(p, q, base=2) ** 2 for p, q in rows]), abs=1e-13
        )


# keys left out


@pytest.mark.parametrize("keys", [[0], [0, 1], [0, 4, 9]], ids=str)
def test_a_row_without_keys_is_the_softmax_over_the_others(rng, keys):
    scores = rng.standard_normal((2, 10, 10))
    left = compare.without(softmax(scores), keys)
    scores[:, :, keys] = -1e9
    for t in range(10):
        n_left = len(set(range(t + 1)) - set(keys))
        want = softmax(scores)[:, t] if n_left >= 2 else np.zeros((2, 10))
        np.testing.assert_allclose(left[:, t], want, rtol=0, atol=1e-15)


def test_queries_without_a_choice_are_not_counted(rng):
    """Rows that see fewer than two keys, or in which a head has nothing left, do not change the result."""
    maps = random_maps(rng, 3, 8, 8).astype("float32")
    maps[1, 5] = [1, 0, 0, 0, 0, 0, 0, 0]  # all weight on the first key
    left = compare.without(maps, [0])
    found = compare.compare(left, left)
    assert np.isfinite(found.cosine).all()
    assert np.isfinite(found.divergence).all()
    queries = [2, 3, 4, 6, 7]
    want = np.mean([jensenshannon(left[0, t], left[2, t], base=2) ** 2 for t in queries])
    assert found.divergence[0, 2] == pytest.approx(want, rel=1e-5)
    np.testing.assert_allclose(found.cosine.diagonal(), 1, rtol=0, atol=1e-6)


def test_an_empty_row_on_either_side_takes_its_query_out(rng):
    a, b = compare.without(random_maps(rng, 3, 8, 8), []), compare.without(random_maps(rng, 2, 8, 8), [])
    b[1, 5] = 0
    queries = [1, 2, 3, 4, 6, 7]
    want = np.mean([jensenshannon(a[2, t], b[0, t], base=2) ** 2 for t in queries])
    assert compare.compare(a, b).divergence[2, 0] == pytest.approx(want, abs=1e-14)
    assert compare.compare(b, a).divergence[0, 2] == pytest.approx(want, abs=1e-14)


def test_nothing_left_is_an_error():
    first = np.zeros((2, 5, 5))
    first[:, :, 0] = 1
    left = compare.without(first, [0])
    assert not left.any()
    with pytest.raises(ValueError, match="maps: no query has two or more kept keys on which every head has weight"):
        compare.compare(left, left)


def test_sinks_are_found_and_neighbours_are_not():
    length = 64
    scores = np.zeros((2, length, length))
    scores[:, :, 0] = scores[:, :, 20] = np.log(30)
    for t in range(1, length):
        scores[:, t, t - 1] = np.log(30)
    assert compare.sinks(softmax(scores)) == [0, 20]
    assert compare.sinks(np.tri(length)[None] / np.arange(1, length + 1)[:, None]) == []


# baselines


@pytest.mark.parametrize("dropped", [[], [0], [0, 3]], ids=str)
def test_shuffling_keeps_each_row_and_the_keys_left_out(rng, dropped):
    maps = compare.without(random_maps(rng, 3, 16, 16), dropped)
    shuffled = compare.shuffle(maps, rng, dropped)
    assert not np.triu(shuffled, 1).any()
    assert not shuffled[:, :, dropped].any()
    np.testing.assert_array_equal(np.sort(shuffled, axis=-1), np.sort(maps, axis=-1))
    assert (shuffled[:, 8:] != maps[:, 8:]).any(axis=-1).all()
    # all heads are permuted in the same way: what two heads have in common stays
    np.testing.assert_allclose(
        compare.compare(shuffled, shuffled).cosine, compare.compare(maps, maps).cosine, rtol=0, atol=1e-14
    )


def test_shuffled_cosine_is_what_chance_gives(rng):
    """The mean of ⟨p, πq⟩ over all permutations π of n keys is 1/n."""
    maps = compare.without(random_maps(rng, 2, 24, 24), [])
    norms = np.linalg.norm(maps[:, 1:], axis=-1)
    want = np.mean(1 / (np.arange(2, 25) * norms[0] * norms[1]))
    drawn = np.array([compare.compare(maps, compare.shuffle(maps, rng, [])).cosine[0, 1] for _ in range(400)])
    assert abs(drawn.mean() - want) <= 5 * drawn.std() / np.sqrt(400)


def test_another_text_takes_away_what_is_not_position(rng):
    n, length = 3, 24
    by_position = softmax(-np.abs(np.arange(length)[:, None] - np.arange(length) - 3.0))
    found = compare.measure(np.broadcast_to(by_position, (4, n, length, length)), rng).views["all_keys"]
    np.testing.assert_allclose(found.other.cosine, found.same.cosine, rtol=0, atol=1e-12)
    assert compare.between_heads(found.shuffled.cosine) < 0.7
    # heads that agree on the text and on nothing else
    by_words = np.repeat(random_maps(rng, 4, 1, length, length, sharpness=4), n, axis=1)
    found = compare.measure(by_words, rng).views["all_keys"]
    np.testing.assert_allclose(found.same.cosine, 1, rtol=0, atol=1e-12)
    other, shuffled = (compare.between_heads(x.cosine) for x in (found.other, found.shuffled))
    assert other == pytest.approx(shuffled, abs=0.1)
    assert other < 0.5


def test_a_sink_makes_heads_alike_until_it_is_left_out(rng):
    scores = 3 * rng.standard_normal((2, 4, 48, 48))
    scores[:, :, :, 0] += 9
    scores[:, :, :, 10] += 9
    maps = softmax(scores)
    layer = compare.measure(maps, rng)
    assert layer.sinks == [[0, 10], [0, 10]]
    cosine = {name: compare.between_heads(view.same.cosine) for name, view in layer.views.items()}
    assert min(cosine["all_keys"], cosine["without_first"]) > 0.6  # the other sink is still there
    assert cosine["without_sinks"] < 0.4
    assert layer.first_weight == pytest.approx(maps[:, :, 1:, 0].mean(), abs=1e-14)
    assert layer.sink_weight == pytest.approx((maps[..., 0] + maps[..., 10])[:, :, 1:].mean(), abs=1e-14)
    assert layer.views["without_sinks"].by_window.mean() == pytest.approx(cosine["without_sinks"], abs=1e-12)


def test_no_sinks_beside_the_first_means_no_other_view(rng):
    layer = compare.measure(random_maps(rng, 2, 2, 20, 20, sharpness=0.1), rng)
    assert layer.views["without_sinks"] is layer.views["without_first"]


def test_a_single_map_has_weights_and_nothing_to_compare_with(rng):
    maps = random_maps(rng, 2, 3, 24, 24)
    alone = compare.measure(maps[:, 1:2], rng)
    assert (alone.n_maps, alone.views) == (1, {})
    assert alone.first_weight == pytest.approx(maps[:, 1, 1:, 0].mean(), abs=1e-14)
    assert compare.measure(maps, rng).n_maps == 3


@pytest.mark.parametrize(
    "shape, message",
    [
        ((2, 3, 8), r"maps has shape \(2, 3, 8\); expected \(W, n, N, N\)"),
        ((1, 3, 8, 8), "with W ≥ 2, n ≥ 1 and N ≥ 3"),
        ((2, 0, 8, 8), "with W ≥ 2, n ≥ 1 and N ≥ 3"),
        ((2, 2, 8, 7), "with W ≥ 2, n ≥ 1 and N ≥ 3"),
        ((2, 2, 2, 2), "with W ≥ 2, n ≥ 1 and N ≥ 3"),
    ],
)
def test_maps_that_cannot_be_measured(shape, message, rng):
    with pytest.raises(ValueError, match=message):
        compare.measure(np.ones(shape), rng)


# clusters


def planted(groups, inside, outside):
    n = sum(map(len, groups))
    similarity = np.full((n, n), outside)
    for group in groups:
        similarity[np.ix_(group, group)] = inside
    np.fill_diagonal(similarity, 1)
    return similarity


def test_planted_clusters_are_recovered():
    groups = [[0, 3, 4], [1, 7], [2, 5, 6, 8]]
    similarity = planted(groups, 0.85, 0.3)
    assert clustering.cut(similarity, 3) == groups
    found = clustering.needed(similarity)
    assert [len(clusters) for clusters in found] == [3, 3, 3, 9, 9]  # at 0.5, 0.7, 0.8, 0.9, 0.95
    assert found[0] == groups
    assert [len(c) for c in clustering.needed(similarity, (0.2, 0.3, 0.31))] == [1, 1, 3]


def test_planted_maps_are_clustered_by_what_they_look_at(rng):
    kinds = 4 * rng.standard_normal((2, 3, 40, 40))  # three ways to look, on each of two texts
    who = [0, 1, 2, 0, 1, 2, 0]
    maps = softmax(kinds[:, who] + 0.2 * rng.standard_normal((2, 7, 40, 40)))
    similarity = compare.measure(maps, rng).views["all_keys"].same.cosine
    assert clustering.needed(similarity, (0.9,)) == [[[0, 3, 6], [1, 4], [2, 5]]]


def test_the_tree_is_of_average_linkage():
    def cut(**distances):
        similarity = np.full((4, 4), 0.1)
        for pair, distance in distances.items():
            i, j = int(pair[1]), int(pair[2])
            similarity[i, j] = similarity[j, i] = 1 - distance
        np.fill_diagonal(similarity, 1)
        return clustering.cut(similarity, 2)

    assert cut(d01=0.1, d12=0.2, d23=0.3) == [[0, 1], [2, 3]]  # single linkage would put 2 with 0 and 1
    assert cut(d01=0.1, d02=0.2, d12=0.5, d23=0.4) == [[0, 1, 2], [3]]  # complete linkage would not


def test_each_head_is_served_by_the_medoid():
    """A chain: both ends are similar to the middle but not to each other, so one map serves all three."""
    chain = np.array([[1, 0.8, 0.3], [0.8, 1, 0.8], [0.3, 0.8, 1]])
    assert clustering.medoid(chain, [0, 1, 2]) == 1
    assert clustering.least_similarity(chain, [[0, 1, 2]]) == 0.8
    assert clustering.needed(chain, (0.8,)) == [[[0, 1, 2]]]
    assert clustering.needed(chain, (0.81,)) == [[[0], [1], [2]]]


def test_more_maps_for_more_likeness(rng):
    x = np.abs(rng.standard_normal((10, 4)))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    thresholds = np.linspace(0, 1, 30)
    similarity = x @ x.T  # its diagonal is 1 only up to rounding
    counts = [len(clusters) for clusters in clustering.needed(similarity, thresholds)]
    assert counts == sorted(counts)
    assert (counts[0], counts[-1]) == (1, 10)
    for threshold, clusters in zip(thresholds, clustering.needed(similarity, thresholds), strict=True):
        assert sorted(itertools.chain(*clusters)) == list(range(10))
        assert clustering.least_similarity(similarity, clusters) >= threshold - 1e-12


def test_clusters_of_one_and_of_equals():
    assert clustering.cut(np.ones((1, 1)), 1) == [[0]]
    assert clustering.needed(np.ones((4, 4)), (1.0,)) == [[[0, 1, 2, 3]]]
    with pytest.raises(ValueError, match=r"thresholds=\(0.5, 1.5\) must be at most 1"):
        clustering.needed(np.ones((2, 2)), (0.5, 1.5))
    with pytest.raises(ValueError, match="k=0 must be a whole number of at least 1"):
        clustering.cut(np.ones((2, 2)), 0)


def test_heads_that_share_a_key():
    groups = clustering.key_groups(6, 2)
    assert groups == [[0, 1, 2], [3, 4, 5]]
    similarity = planted(groups, 0.9, 0.2)
    similarity[0, 5] = similarity[5, 0] = 0.29
    within, across = clustering.within_and_across(similarity, groups)
    assert within == pytest.approx(0.9)
    assert across == pytest.approx(0.2 + 0.09 / 9)
    assert clustering.n_shared([[0, 1, 2], [3, 4], [5]], groups) == 1
    assert clustering.n_shared(clustering.cut(similarity, 2), groups) == 2
    same = compare.Comparison(similarity, 1 - similarity)
    view = compare.View(same, same, same, similarity, np.ones(2))
    found = report.report([compare.Layer(0.0, 0.0, [], dict.fromkeys(compare.VIEWS, view))] * 3, [2] * 3)
    sharing = found["summary"]["all_keys"]["sharing_a_key"]
    assert (sharing["groups_found"], sharing["groups"]) == (6, 6)
    assert (sharing["layers_more_alike_within"], sharing["layers"]) == (3, 3)
    # a cluster of three of six heads is one of the two groups in 2 of C(6, 3) = 20 cases; two clusters, three layers
    assert sharing["expected_by_chance"] == pytest.approx(6 * 2 / 20)
    with pytest.raises(ValueError, match="n_k=4 must divide n_q=6"):
        clustering.key_groups(6, 4)


# models


@pytest.mark.parametrize("name", ["gqa", "gta", "mla"])
def test_maps_of_a_model_are_those_of_its_layers(name, rng):
    config = small.config(name, vocab_size=11, hidden_size=32, n_layers=2, n_heads=4)
    params, ids = model.init(config, rng, "float64"), rng.integers(0, 11, (2, 9))
    found = list(compare.layer_maps(params, ids, config))
    n_q = config.module.structure(config.attention).n_q
    assert [maps.shape for maps in found] == [(2, n_q, 9, 9)] * 2
    x = params["embed"][ids]
    for i, maps in enumerate(found):
        np.testing.assert_allclose(maps.sum(axis=-1), 1, rtol=0, atol=1e-12)
        assert not np.triu(maps, 1).any()
        layer, trace = block.select(params, f"layers.{i}."), {}
        arguments = config.module, config.attention, config.norm_eps
        plain, _ = block.forward(layer, x, *arguments, engine="reference")
        traced, _ = block.forward(layer, x, *arguments, trace=trace)
        np.testing.assert_array_equal(plain, traced)
        np.testing.assert_array_equal(maps, trace["map"])
        x = plain


def test_report_of_a_random_model(rng):
    config = small.config("gqa", vocab_size=11, hidden_size=64, n_layers=2)  # 8 maps, 2 key heads
    params, ids = model.init(config, rng), rng.integers(0, 11, (3, 30))
    layers = [compare.measure(maps, rng) for maps in compare.layer_maps(params, ids, config)]
    found = json.loads(json.dumps(report.report(layers, [2, 2]), allow_nan=False))
    assert [layer["layer"] for layer in found["layers"]] == [0, 1]
    for name in compare.VIEWS:
        summary, views = found["summary"][name], [layer[name] for layer in found["layers"]]
        for baseline, measure in itertools.product(("same", "other", "shuffled"), ("cosine", "divergence")):
            matrices = np.array([view[baseline][measure] for view in views])
            assert matrices.shape == (2, 8, 8)
            assert summary[f"{measure}_{baseline}"] == pytest.approx(
                np.mean([compare.between_heads(m) for m in matrices]), abs=1e-5
            )
        assert summary["maps"] == 16
        for threshold, number in summary["maps_needed"].items():
            assert number == sum(view["maps_needed"][threshold] for view in views)
            assert number == sum(len(view["clusters"][threshold]) for view in views)
        sharing = summary["sharing_a_key"]
        assert sharing["groups"] == 4
        selves = [np.trace(view["other"]["cosine"]) / 8 for view in views]
        assert summary["same_head_other_text"] == pytest.approx(np.mean(selves), abs=1e-5)
    # every head has its own key: there is nothing to share
    assert report.report(layers, [8, 8])["summary"]["all_keys"]["sharing_a_key"] is None


def test_report_of_layers_with_different_numbers_of_maps(rng):
    maps = [random_maps(rng, 2, n, 24, 24, sharpness=2) for n in (2, 1, 4)]
    two, one, four = layers = [compare.measure(of_layer, rng) for of_layer in maps]
    found = json.loads(json.dumps(report.report(layers, [1, 1, 2]), allow_nan=False))
    assert [(layer["maps"], layer["key_heads"]) for layer in found["layers"]] == [(2, 1), (1, 1), (4, 2)]
    assert found["layers"][1]["first_weight"] == one.first_weight
    for name in compare.VIEWS:
        assert found["layers"][1][name] is None
        summary = found["summary"][name]
        assert (summary["layers"], summary["maps"]) == (2, 6)
        means = [compare.between_heads(layer.views[name].same.cosine) for layer in (four, two)]
        assert summary["cosine_same"] == pytest.approx(np.mean(means), abs=1e-14)
        needed = [found["layers"][i][name]["maps_needed"]["0.8"] for i in (0, 2)]
        assert summary["maps_needed"]["0.8"] == sum(needed)
        assert (summary["sharing_a_key"]["layers"], summary["sharing_a_key"]["groups"]) == (1, 2)
    with pytest.raises(ValueError, match="none of the 2 has two maps to compare; expected at least one that has"):
        report.report([one, one], [1, 1])
