"""Boxes, matching, counts, clicks and intervals: by hand, by brute force and against print."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import diffvis_jax.metrics as ev

BOX = [10, 20, 30, 40]

# Few positions, so that boxes often share edges, equal one another or have no area.
coordinates = st.integers(0, 6)
boxes = st.builds(
    lambda x0, y0, w, h: [x0, y0, x0 + w, y0 + h],
    coordinates,
    coordinates,
    coordinates,
    coordinates,
)
box_lists = st.lists(boxes, max_size=5)
overlaps = st.builds(
    lambda seed, p, t: np.random.default_rng(seed).integers(0, 5, (p, t)) / 4,
    st.integers(0, 2**16),
    st.integers(0, 5),
    st.integers(0, 5),
)
often = settings(max_examples=60)


# Boxes


def test_iou_by_hand():
    a = [[0, 0, 10, 10], [0, 0, 10, 10], [20, 20, 30, 30], [5, 5, 5, 9]]
    b = [[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10], [2, 2, 4, 4]]
    expected = [[1, 50 / 150, 0, 4 / 100]] * 2 + [[0] * 4] * 2
    np.testing.assert_array_equal(ev.iou_matrix(a, b), expected)
    assert ev.area(a).tolist() == [100, 100, 100, 0]
    assert ev.iou([5, 5, 5, 9], [5, 5, 5, 9]) == 0  # no area, no overlap, no division by zero


def test_iou_reads_small_integers_as_numbers():
    box = np.array([0, 0, 200, 200], np.uint8)
    assert ev.area(box) == 40_000
    assert ev.iou(box, box) == 1


@often
@given(a=box_lists, b=box_lists)
def test_iou_counts_the_pixels_shared(a, b):
    def pixels(box):
        return set(itertools.product(range(box[0], box[2]), range(box[1], box[3])))

    found = ev.iou_matrix(a, b)
    assert found.shape == (len(a), len(b))
    assert found.dtype == np.float64
    for i, j in np.ndindex(found.shape):
        p, q = pixels(a[i]), pixels(b[j])
        assert found[i, j] == (len(p & q) / len(p | q) if p | q else 0)


@given(seed=st.integers(0, 2**16))
def test_iou_is_symmetric_and_a_share(seed):
    a, b = (
        np.concatenate([x, x + np.random.default_rng(seed).random((9, 2)) + 1e-3], -1)
        for x in np.random.default_rng(seed).random((2, 9, 2))
    )
    found = ev.iou_matrix(a, b)
    np.testing.assert_array_equal(found, ev.iou_matrix(b, a).T)
    assert (found >= 0).all()
    assert (found <= 1).all()
    np.testing.assert_array_equal(np.diag(ev.iou_matrix(a, a)), 1)


@pytest.mark.parametrize(
    ("bad", "names"),
    [
        ([BOX, [30, 20, 10, 40]], r"boxes\[1\] is inverted"),
        ([BOX, BOX, [10, 40, 30, 20]], r"boxes\[2\] is inverted"),
        ([[30, 40, 10, 20]], r"boxes\[0\] is inverted"),  # both sides: a positive area
        ([BOX, [10, 20, math.nan, 40]], r"boxes\[1\] is not finite"),
        ([[-math.inf, 20, 30, 40]], r"boxes\[0\] is not finite"),
        ([[BOX, BOX], [BOX, [1, 0, 0, 0]]], r"boxes\[1, 1\] is inverted"),
        ([3, 0, 0, 0], "boxes is inverted"),
        ([[1, 2, 3]], r"\[\.\., 4\], got \[1, 3\]"),
        ([BOX, [1, 2, 3]], "must be numbers"),
        (["box"], "must be numbers"),
        ([[]], r"got \[1, 0\]"),
        (None, r"got \[\]"),
    ],
)
def test_boxes_that_are_none(bad, names):
    with pytest.raises(ev.BoxError, match=names):
        ev.as_boxes(bad)
    assert issubclass(ev.BoxError, ValueError)


def test_boxes_are_named_where_two_lists_are_given():
    with pytest.raises(ev.BoxError, match=r"b\[1\]"):
        ev.iou_matrix([BOX], [BOX, [1, 0, 0, 0]])
    with pytest.raises(ev.BoxError, match=r"a must be \[N, 4\]"):
        ev.iou_matrix(BOX, [BOX])


def test_edges_lie_within():
    inside = [[10, 20], [30, 40], [10, 40], [20, 30], [30, 20]]
    outside = [[9.999, 30], [30.001, 30], [20, 19], [20, 41], [math.nan, 30], [math.inf, 30]]
    assert ev.contains(BOX, inside).all()
    assert not ev.contains(BOX, outside).any()
    assert ev.contains([BOX, [0, 0, 1, 1]], [10, 20]).tolist() == [True, False]
    assert ev.contains([3, 3, 3, 3], [3, 3])
    with pytest.raises(ev.EvaluationError, match=r"\[3\]"):
        ev.contains(BOX, [1, 2, 3])


# Matching


def best_by_brute_force(iou, allowed, ignore):
    """Most pairs with a truth that counts, then most pairs, then the largest total overlap."""
    predictions, truths = allowed.shape
    best = (0, 0, 0.0)
    # Every prediction takes a truth or one of as many blanks as there are predictions.
    for chosen in itertools.permutations(range(truths + predictions), predictions):
        pairs = [(p, t) for p, t in enumerate(chosen) if t < truths and allowed[p, t]]
        counted = sum(not ignore[t] for _, t in pairs)
        best = max(best, (counted, len(pairs), sum(iou[pair] for pair in pairs)))
    return best


@often
@given(iou=overlaps, seed=st.integers(0, 2**16), threshold=st.sampled_from([0.25, 0.5, 1.0]))
def test_matching_is_one_to_one_and_close_enough(iou, seed, threshold):
    random = np.random.default_rng(seed)
    ignore = random.random(iou.shape[1]) < 0.3
    for scores in (None, random.integers(0, 3, len(iou))):
        truth_of = ev.match(iou, scores, threshold, ignore=ignore)
        assert truth_of.shape == (len(iou),)
        assert truth_of.dtype == np.int64
        taken = truth_of[truth_of >= 0]
        assert len(set(taken.tolist())) == len(taken)
        assert (iou[truth_of >= 0, taken] >= threshold).all()
        again = ev.match(iou, scores, threshold, ignore=ignore)
        np.testing.assert_array_equal(truth_of, again)


@often
@given(
    iou=overlaps.filter(lambda iou: sum(iou.shape) <= 8 and len(iou) <= 4),
    seed=st.integers(0, 2**16),
)
def test_matching_is_as_good_as_brute_force(iou, seed):
    ignore = np.random.default_rng(seed).random(iou.shape[1]) < 0.4
    truth_of = ev.match(iou, ignore=ignore)
    taken = truth_of[truth_of >= 0]
    total = iou[truth_of >= 0, taken].sum()
    result = (int((~ignore[taken]).sum()), len(taken), total)
    assert result == best_by_brute_force(iou, iou >= 0.5, ignore)


def test_the_confident_choose_first():
    iou = [[0.6, 0.7], [0.0, 0.8], [0.9, 0.9]]
    assert ev.match(iou, [0.9, 0.5, 0.1]).tolist() == [1, -1, 0]
    assert ev.match(iou, [0.5, 0.9, 0.1]).tolist() == [0, 1, -1]
    assert ev.match(iou, [1, 1, 1]).tolist() == [1, -1, 0]  # equal scores: as given
    assert ev.match(iou, [0.1, 0.2, 0.3]).tolist() == [-1, 1, 0]  # equal overlaps: the first truth


def test_unsigned_scores_are_not_wrapped_round():
    assert ev.match([[0.9], [0.9]], np.array([0, 7], np.uint8)).tolist() == [-1, 0]


def test_the_largest_overlaps_pair_where_nothing_else_is_gained():
    assert ev.match([[0.6, 0.9], [0.8, 0.7]]).tolist() == [1, 0]
    assert ev.match([[0.9, 0.6], [0.7, 0.8]]).tolist() == [0, 1]
    assert ev.match([[0.9, 0.6], [0.8, 0.4]]).tolist() == [1, 0]  # two pairs before one better
    assert ev.match([[0.9, 0.8], [0.8, 0.5]]).tolist() == [1, 0]  # the largest total overlap


def test_the_threshold_itself_is_enough():
    iou = ev.iou_matrix([[0, 0, 3, 1]], [[0, 0, 5, 1]])
    for scores in (None, [1.0]):
        assert ev.match(iou, scores, 0.6).tolist() == [0]
        assert ev.match(iou, scores, np.nextafter(0.6, 1)).tolist() == [-1]


def test_ignored_truths_get_what_the_others_leave():
    iou = [[0.6, 0.9], [0.0, 0.8]]
    for scores in (None, [0.9, 0.8]):
        assert ev.match(iou, scores, ignore=[False, True]).tolist() == [0, 1]
        assert ev.match(iou[:1], scores and scores[:1], ignore=[False, True]).tolist() == [0]


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (dict(iou=[0.5]), r"iou must be \[P, T\]"),
        (dict(iou=[[1.5]]), "iou must be"),
        (dict(iou=[[math.nan]]), "iou must be"),
        (dict(iou=[[0.5]], scores=[1, 2]), r"finite \[1\]"),
        (dict(iou=[[0.5]], scores=[math.nan]), "nan"),
        (dict(iou=[[0.5]], threshold=0), "threshold"),
        (dict(iou=[[0.5]], threshold=1.1), "threshold"),
        (dict(iou=[[0.5]], threshold=math.nan), "threshold"),
        (dict(iou=[[0.5]], ignore=[1]), "ignore must be bool"),
        (dict(iou=[[0.5]], ignore=[True, False]), "ignore must be bool"),
    ],
)
def test_matching_refuses(arguments, names):
    with pytest.raises(ev.EvaluationError, match=names):
        ev.match(**arguments)


# Detection


def test_counts_by_hand():
    truths = [[0, 0, 10, 10], [20, 0, 30, 10], [40, 0, 50, 10]]
    predictions = [[0, 0, 10, 9], [20, 0, 30, 5], [60, 0, 70, 10], [80, 0, 90, 10]]
    counts = ev.detection_counts(predictions, truths)  # IoU 0.9, 0.5 and nothing
    assert counts == ev.Counts(true_positives=2, false_positives=2, false_negatives=1)
    assert (counts.precision, counts.recall, counts.f1) == (2 / 4, 2 / 3, 4 / 7)
    stricter = ev.detection_counts(predictions, truths, threshold=0.51)
    assert stricter == ev.Counts(true_positives=1, false_positives=3, false_negatives=2)


@pytest.mark.parametrize("scores", [None, [0.1, 0.3, 0.2]])
def test_several_predictions_of_one_truth_count_once(scores):
    counts = ev.detection_counts([BOX] * 3, [BOX], scores=scores)
    assert counts == ev.Counts(true_positives=1, false_positives=2)
    counts = ev.detection_counts([BOX], [BOX] * 3, scores=scores and scores[:1])
    assert counts == ev.Counts(true_positives=1, false_negatives=2)


def test_nothing_to_find_and_nothing_found():
    nothing = ev.detection_counts([], [])
    assert nothing == ev.total([]) == ev.Counts()
    assert (nothing.precision, nothing.recall, nothing.f1, nothing.kind_agreement) == (None,) * 4
    missed = ev.detection_counts([], [BOX, BOX], scores=[], ignore=[False, True])
    assert missed == ev.Counts(false_negatives=1)
    assert (missed.precision, missed.recall, missed.f1) == (None, 0, 0)
    false = ev.detection_counts([BOX], [], ignore=[])
    assert false == ev.Counts(false_positives=1)
    assert (false.precision, false.recall, false.f1) == (0, None, 0)


@often
@given(predictions=box_lists, truths=box_lists, seed=st.integers(0, 2**16))
def test_counts_depend_on_no_order(predictions, truths, seed):
    random = np.random.default_rng(seed)
    ignore = random.random(len(truths)) < 0.4
    p, t = random.permutation(len(predictions)), random.permutation(len(truths))
    shuffled = ev.detection_counts(
        np.array(predictions).reshape(-1, 4)[p],
        np.array(truths).reshape(-1, 4)[t],
        threshold=0.3,
        ignore=ignore[t],
    )
    assert shuffled == ev.detection_counts(predictions, truths, threshold=0.3, ignore=ignore)


@often
@given(predictions=box_lists, truths=box_lists)
def test_f1_does_not_know_which_side_is_true(predictions, truths):
    one = ev.detection_counts(predictions, truths, threshold=0.3)
    other = ev.detection_counts(truths, predictions, threshold=0.3)
    assert one.f1 == other.f1
    assert (one.precision, one.recall) == (other.recall, other.precision)
    assert one.true_positives + one.false_positives == len(predictions)
    assert one.true_positives + one.false_negatives == len(truths)


def test_ignored_truths_are_neither_found_nor_missed():
    truths = [[0, 0, 100, 20], [0, 50, 15, 80], [0, 90, 40, 100]]
    ignore = ev.smaller_than(truths)
    assert ignore.tolist() == [False, True, True]
    assert ev.smaller_than([[0, 0, 16, 16]]).tolist() == [False]
    predictions = [truths[0], truths[1], truths[1], [200, 0, 210, 10]]
    counts = ev.detection_counts(predictions, truths, ignore=ignore)
    # Of the two predictions of the small truth, one is one too many.
    assert counts == ev.Counts(true_positives=1, false_positives=2, ignored_predictions=1)
    assert ev.detection_counts([], truths, ignore=ignore) == ev.Counts(false_negatives=1)


def test_kinds_are_compared_where_boxes_are_right():
    truths = [BOX, [100, 0, 110, 10], [200, 0, 210, 10], [300, 0, 310, 10]]
    predictions = [truths[3], truths[1], truths[0], [500, 0, 510, 10]]
    counts = ev.detection_counts(
        predictions,
        truths,
        ignore=[False, False, False, True],
        prediction_kinds=["link", "icon", "text", "text"],
        truth_kinds=["text", "button", "text", "link"],
    )
    assert (counts.kinds_compared, counts.kinds_agreed) == (2, 1)
    assert counts.kind_agreement == 0.5
    assert counts.true_positives == 2


def test_totals_weigh_elements_and_not_pictures():
    first = ev.detection_counts([BOX], [BOX], prediction_kinds=["a"], truth_kinds=["a"])
    second = ev.Counts(true_positives=1, false_positives=2, false_negatives=5)
    both = ev.total([first, second])
    assert both.precision == 2 / 4
    assert both.recall == 2 / 7
    assert both.kind_agreement == 1
    assert ev.total(iter([first])) == first


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (dict(predictions=[[30, 20, 10, 40]]), r"predictions\[0\] is inverted"),
        (dict(truths=[BOX, [30, 40, 10, 20]]), r"truths\[1\] is inverted"),
        (dict(prediction_kinds=["text"]), "both or neither"),
        (dict(prediction_kinds=["text"], truth_kinds=["text", "icon"]), r"\(1, 1\).*\(1, 2\)"),
        (dict(ignore=[True, True]), "ignore"),
    ],
)
def test_detection_refuses(arguments, names):
    with pytest.raises(ev.EvaluationError, match=names):
        ev.detection_counts(**{"predictions": [BOX], "truths": [BOX]} | arguments)


# Clicks

TRIANGLE = ev.Polygon([[0, 0], [10, 0], [0, 10]])
# A square with a smaller one cut out, joined to it by an edge that is walked both ways.
RING = ev.Polygon([[0, 0], [9, 0], [9, 9], [0, 9], [0, 0], [3, 3], [3, 6], [6, 6], [6, 3], [3, 3]])


@pytest.mark.parametrize(
    ("answer", "target", "outcome"),
    [
        ((10, 20), BOX, "correct"),
        (np.array([30.0, 40.0], np.float32), BOX, "correct"),
        ([30.5, 40], BOX, "outside"),
        ((-1, -1), BOX, "outside"),
        ((150, 5), [[0, 0, 10, 10], [100, 0, 200, 10]], "correct"),
        ((50, 5), [[0, 0, 10, 10], [100, 0, 200, 10]], "outside"),
        ((3, 3), TRIANGLE, "correct"),
        ((5, 5), TRIANGLE, "correct"),  # on an edge
        ((0, 10), TRIANGLE, "correct"),  # on a corner
        ((6, 6), TRIANGLE, "outside"),
        ((-1, 0), TRIANGLE, "outside"),  # in line with an edge
        ((-1, 10), TRIANGLE, "outside"),  # the ray meets a corner
        ((1, 2), RING, "correct"),
        ((4, 5), RING, "outside"),
        ((3, 4), RING, "correct"),
        (ev.Refusal(), ev.Refusal(), "correct"),
        (ev.Refusal(), BOX, "refused"),
        ((12, 22), ev.Refusal(), "not_refused"),
        (None, BOX, "no_prediction"),
        (None, ev.Refusal(), "no_prediction"),
        ("(12, 22)", BOX, "wrong_format"),
        ("(12, 22)", ev.Refusal(), "wrong_format"),
        ((12, 22, 24, 30), BOX, "wrong_format"),
        ((12, math.nan), BOX, "wrong_format"),
        ((12, None), BOX, "wrong_format"),
        (("12", "22"), BOX, "wrong_format"),
        ((True, True), BOX, "wrong_format"),
        ((12, [22, 3]), BOX, "wrong_format"),
        ((12 + 1j, 22), BOX, "wrong_format"),
        ([], BOX, "wrong_format"),
    ],
)
def test_a_click(answer, target, outcome):
    assert ev.click_accuracy([answer], [target]).outcomes == (outcome,)


def test_every_query_counts():
    answers = [(15, 25), (0, 0), None, "no idea", ev.Refusal()]
    result = ev.click_accuracy(answers, [BOX] * 5)
    assert result.accuracy == 1 / 5
    assert result.correct.tolist() == [True, False, False, False, False]
    outcomes = ("correct", "outside", "no_prediction", "wrong_format", "refused")
    assert result.outcomes == outcomes
    assert ev.click_accuracy(np.array([[15, 25], [0, 0]]), np.array([BOX, BOX])).accuracy == 0.5
    nothing = ev.click_accuracy([], [])
    assert nothing.accuracy is None
    assert nothing.correct.shape == (0,)


@often
@given(
    box=boxes,
    point=st.tuples(st.integers(-1, 13), st.integers(-1, 13)),
    start=st.integers(0, 3),
    backwards=st.booleans(),
)
def test_a_box_is_a_polygon(box, point, start, backwards):
    x0, y0, x1, y1 = box
    corners = np.roll([[x0, y0], [x1, y0], [x1, y1], [x0, y1]], start, 0)
    polygon = ev.Polygon(corners[::-1] if backwards else corners)
    one, other = ev.click_accuracy([point] * 2, [box, polygon]).outcomes
    assert one == other


@often
@given(seed=st.integers(0, 2**16))
def test_even_odd_is_the_parity_of_triangles(seed):
    # A point is within a polygon as often as within the triangles from any one vertex, modulo 2;
    # points on no line through two vertices, or the triangles' own edges would count.
    random = np.random.default_rng(seed)
    vertices = random.integers(0, 8, (6, 2)).astype(float)
    points = random.random((20, 2)) * 8
    fan = [ev.Polygon([vertices[0], vertices[i], vertices[i + 1]]) for i in range(1, 5)]
    whole = ev.click_accuracy(points, [ev.Polygon(vertices)] * 20).correct
    parts = [ev.click_accuracy(points, [triangle] * 20).correct for triangle in fan]
    np.testing.assert_array_equal(whole, np.sum(parts, 0) % 2 == 1)


@pytest.mark.parametrize(
    ("target", "names"),
    [
        ([30, 20, 10, 40], r"targets\[1\] is inverted"),
        ([BOX, [30, 20, 10, 40]], r"targets\[1\]\[1\] is inverted"),
        ([], r"targets\[1\] must be a box"),
        (None, r"targets\[1\]"),
        (ev.Polygon([[0, 0], [1, 1]]), r"V >= 3, got \[2, 2\]"),
        (ev.Polygon([0, 0, 1, 1, 2, 0]), r"V >= 3, got \[6\]"),
        (ev.Polygon([[0, 0], [1, 1], [2]]), r"targets\[1\] must have vertices"),
        (ev.Polygon([[0, 0], [1, 1], [math.nan, 0]]), r"targets\[1\] has vertices"),
    ],
)
@pytest.mark.parametrize("answer", [None, (1, 1), ev.Refusal()])
def test_targets_that_are_none(answer, target, names):
    with pytest.raises(ev.EvaluationError, match=names):
        ev.click_accuracy([(0, 0), answer], [BOX, target])


def test_as_many_points_as_targets():
    with pytest.raises(ev.EvaluationError, match="3 and 1"):
        ev.click_accuracy([None] * 3, [BOX])


# Statistics


def test_wilson_interval():
    assert ev.wilson_interval(5, 10) == pytest.approx((0.2366, 0.7634), abs=5e-5)
    assert ev.wilson_interval(0, 0) == (0, 1)


def test_tails():
    assert ev.tails([None, *range(11)]) == {"median": 5, "p90": 9, "max": 10}
    assert ev.tails([None]) == {"median": None, "p90": None, "max": None}


def test_mcnemar_counts_pairs():
    full = np.array([1, 1, 1, 0, 0, 0, 1], bool)
    differential = np.array([1, 1, 0, 1, 0, 0, 0], bool)
    found = ev.mcnemar(full, differential)
    assert found == ev.Paired(both=2, only_full=2, only_differential=1, neither=2, p_value=1.0)
    assert ev.mcnemar([], []) == ev.Paired(0, 0, 0, 0, 1.0)
    clicks = ev.click_accuracy([(15, 25), None], [BOX, BOX])
    assert ev.mcnemar(clicks.correct, [True, True]).only_differential == 1
    assert ev.mcnemar([True] * 9 + [False], [False] * 9 + [True]).p_value == 0.021484375


@pytest.mark.parametrize(
    ("full", "differential", "names"),
    [
        ([True], [True, False], r"\[1\] and \[2\]"),
        ([1, 0], [True, False], "full must be bool"),
        ([True], [0.9], "differential must be bool"),
        ([[True]], [[True]], r"\[1, 1\]"),
    ],
)
def test_mcnemar_refuses(full, differential, names):
    with pytest.raises(ev.EvaluationError, match=names):
        ev.mcnemar(full, differential)


def f1(counts):
    return ev.total(counts).f1


def test_bootstrap_draws_whole_groups():
    # Two groups: each sample is of the one twice, of both, or of the other twice.
    seen = set()

    def mean(values):
        seen.add(tuple(sorted(values)))
        return sum(values) / len(values)

    groups = {"page a": [0.0, 0.0, 0.0], "page b": [1.0]}
    assert ev.bootstrap_interval(groups, mean, seed=0, samples=100) == (0, 1)
    assert seen == {(0, 0, 0, 0, 0, 0), (0, 0, 0, 1), (1, 1)}


def test_bootstrap_of_f1():
    random = np.random.default_rng(0)
    groups = {
        page: [
            ev.Counts(true_positives=int(t), false_positives=10 - int(t), false_negatives=3)
            for t in random.binomial(10, 0.7, 4)
        ]
        for page in range(12)
    }
    whole = f1([counts for group in groups.values() for counts in group])
    low, high = ev.bootstrap_interval(groups, f1, seed=1, samples=300)
    assert low < whole < high
    assert (low, high) == ev.bootstrap_interval(groups, f1, seed=1, samples=300)
    assert (low, high) != ev.bootstrap_interval(groups, f1, seed=2, samples=300)
    narrow = ev.bootstrap_interval(groups, f1, seed=1, samples=300, level=0.5)
    assert low < narrow[0] < narrow[1] < high


def test_bootstrap_is_as_wide_as_theory_says():
    values = np.random.default_rng(3).normal(size=200)
    groups = {i: [float(value)] for i, value in enumerate(values)}
    low, high = ev.bootstrap_interval(groups, lambda v: sum(v) / len(v), seed=0)
    expected = 2 * 1.96 * values.std() / math.sqrt(len(values))
    assert high - low == pytest.approx(expected, rel=0.15)
    # The same values four times over in each group: no more evidence than before.
    copies = {i: group * 4 for i, group in groups.items()}
    again = ev.bootstrap_interval(copies, lambda v: sum(v) / len(v), seed=0)
    assert again == pytest.approx((low, high), abs=1e-12)


def test_bootstrap_leaves_out_what_is_undefined():
    groups = {0: [ev.Counts()], 1: [ev.Counts(true_positives=1, false_positives=1)]}
    assert ev.bootstrap_interval(groups, f1, seed=0, samples=50) == (2 / 3, 2 / 3)


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (dict(values_by_group={}), "fewer than 2"),
        (dict(values_by_group={"page": [1, 2, 3]}), "fewer than 2"),
        (dict(statistic=lambda values: None), "undefined"),
        (dict(statistic=lambda values: math.nan), "not finite"),
        (dict(samples=0), "undefined"),
        (dict(level=0), "level"),
    ],
)
def test_bootstrap_refuses(arguments, names):
    good = dict(values_by_group={"a": [1], "b": [2]}, statistic=sum, seed=0, samples=10)
    with pytest.raises(ev.EvaluationError, match=names):
        ev.bootstrap_interval(**good | arguments)
