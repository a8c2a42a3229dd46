"""Diagrams say at every point of small spaces what the functions they stand for say there."""

from itertools import product

from diagram_points import answers_at, volume
from hypothesis import given
from hypothesis import strategies as st

from pytest_istio_sidecar.netfilter.diagram.diagram import FALL, HOLDS, LEAF, Diagrams, answers_within
from pytest_istio_sidecar.netfilter.diagram.paths import paths, paths_within
from pytest_istio_sidecar.netfilter.diagram.simplify import simplify

TOPS = (2, 3, 2)
POINTS = list(product(*(range(top + 1) for top in TOPS)))
FALLS = frozenset({FALL})

answer_sets = st.sampled_from([FALLS, FALLS, *map(frozenset, ("a", "b", "c", "ab", (FALL, "a")))])
truths = st.sampled_from([frozenset({HOLDS}), FALLS, frozenset({HOLDS, FALL})])


def functions(answers):
    """Answers for every point, in steps, so that neighbours often agree."""
    runs = st.lists(st.tuples(answers, st.integers(1, 9)), min_size=len(POINTS) // 4, max_size=len(POINTS))

    def spread(runs):
        flat = [held for held, times in runs for _ in range(times)]
        return dict(zip(POINTS, (flat * len(POINTS))[: len(POINTS)], strict=True))

    return runs.map(spread)


@st.composite
def boxes(draw):
    box = {}
    for level, top in enumerate(TOPS):
        values = draw(st.sets(st.integers(0, top), min_size=1))
        if draw(st.booleans()):
            box[level] = tuple((value, value) for value in sorted(values))
    return box


def built(diagrams, function, prefix=()):
    """The diagram of a function, made branch by branch from its values."""
    level = len(prefix)
    if level == len(TOPS):
        return diagrams.leaf_of(function[prefix])
    values = range(TOPS[level] + 1)
    return diagrams.make(level, values, [built(diagrams, function, (*prefix, value)) for value in values])


def told(node):
    return {point: answers_at(node, dict(enumerate(point))) for point in POINTS}


def has(box, point):
    return all(any(low <= point[level] <= high for low, high in held) for level, held in box.items())


def first(above, below):
    return {
        point: (above[point] - FALLS) | below[point] if FALL in above[point] else above[point]
        for point in POINTS
    }


def held_in_order(node):
    """Whether levels only increase, intervals do and no branch says what its neighbour says."""
    if node.level == LEAF:
        return True
    apart = all(one is not other for one, other in zip(node.kids, node.kids[1:], strict=False))
    ascending = list(node.highs) == sorted(set(node.highs)) and node.highs[-1] == TOPS[node.level]
    return apart and ascending and all(kid.level > node.level and held_in_order(kid) for kid in node.kids)


@given(functions(answer_sets))
def test_a_diagram_answers_as_its_function(function):
    assert told(built(Diagrams(TOPS), function)) == function


@given(boxes(), functions(answer_sets))
def test_a_box_answers_inside_and_falls_outside(box, function):
    diagrams = Diagrams(TOPS)
    expected = {point: held if has(box, point) else FALLS for point, held in function.items()}
    assert diagrams.box(box, built(diagrams, function)) is built(diagrams, expected)


@given(functions(answer_sets), functions(answer_sets))
def test_first_asks_the_second_just_where_the_first_falls(above, below):
    diagrams = Diagrams(TOPS)
    node = diagrams.first(built(diagrams, above), built(diagrams, below))
    assert node is built(diagrams, first(above, below))


@given(functions(answer_sets), functions(answer_sets), functions(answer_sets))
def test_first_is_associative(one, two, three):
    diagrams = Diagrams(TOPS)
    a, b, c = (built(diagrams, function) for function in (one, two, three))
    assert diagrams.first(diagrams.first(a, b), c) is diagrams.first(a, diagrams.first(b, c))


@given(st.lists(functions(answer_sets), max_size=6))
def test_a_chain_is_the_first_of_all_in_turn(row):
    diagrams = Diagrams(TOPS)
    expected = dict.fromkeys(POINTS, FALLS)
    for function in reversed(row):
        expected = first(function, expected)
    assert diagrams.chain([built(diagrams, function) for function in row]) is built(diagrams, expected)


@given(functions(truths), functions(answer_sets))
def test_when_answers_where_its_condition_holds(condition, then):
    diagrams = Diagrams(TOPS)
    expected = {
        point: (then[point] if HOLDS in condition[point] else frozenset())
        | (FALLS if FALL in condition[point] else frozenset())
        for point in POINTS
    }
    node = diagrams.when(built(diagrams, condition), built(diagrams, then))
    assert node is built(diagrams, expected)


@given(functions(truths))
def test_negate_holds_where_its_condition_falls(condition):
    diagrams = Diagrams(TOPS)
    other = {HOLDS: FALL, FALL: HOLDS}
    expected = {point: frozenset(other[held] for held in condition[point]) for point in POINTS}
    assert diagrams.negate(built(diagrams, condition)) is built(diagrams, expected)


@given(functions(answer_sets), functions(answer_sets))
def test_union_has_the_answers_of_both(one, other):
    diagrams = Diagrams(TOPS)
    node = diagrams.union(built(diagrams, one), built(diagrams, other))
    assert node is built(diagrams, {point: one[point] | other[point] for point in POINTS})


@given(functions(answer_sets))
def test_relabel_and_merge_change_answers_and_nothing_else(function):
    diagrams = Diagrams(TOPS)
    node = built(diagrams, function)
    joined = diagrams.relabel(node, lambda answer: "a" if answer == "b" else answer)
    expected = {point: frozenset("a" if a == "b" else a for a in function[point]) for point in POINTS}
    assert joined is built(diagrams, expected)
    counted = {point: frozenset({len(function[point])}) for point in POINTS}
    assert diagrams.merge(node, len) is built(diagrams, counted)


@given(functions(answer_sets), st.fixed_dictionaries(dict.fromkeys("abc", functions(answer_sets))))
def test_bind_puts_diagrams_over_all_levels_in_place_of_answers(function, follow):
    diagrams = Diagrams(TOPS)
    follow = {**follow, FALL: dict.fromkeys(POINTS, FALLS)}
    node = diagrams.bind(built(diagrams, function), lambda answer: built(diagrams, follow[answer]))
    expected = {
        point: frozenset().union(*(follow[answer][point] for answer in function[point])) for point in POINTS
    }
    assert node is built(diagrams, expected)
    assert held_in_order(node)


@given(st.integers(0, len(TOPS) - 1), st.data())
def test_branch_takes_kids_that_test_its_level_or_those_above(level, data):
    diagrams = Diagrams(TOPS)
    kids = [data.draw(functions(answer_sets)) for _ in range(TOPS[level] + 1)]
    node = diagrams.branch(level, range(len(kids)), [built(diagrams, kid) for kid in kids])
    assert node is built(diagrams, {point: kids[point[level]][point] for point in POINTS})


@given(functions(answer_sets), st.sampled_from(["a", "b", "c"]))
def test_simplify_agrees_wherever_the_answer_is_not_free(function, free):
    diagrams = Diagrams(TOPS)
    node = simplify(diagrams, built(diagrams, function), diagrams.leaf(free))
    asked = {point: held for point, held in function.items() if held != frozenset({free})}
    assert {point: told(node)[point] for point in asked} == asked


def test_simplify_leaves_out_a_test_that_only_free_points_need():
    diagrams = Diagrams(TOPS)
    inside = diagrams.box({0: ((0, 1),), 1: ((1, 3),)}, diagrams.leaf("a"))
    node = diagrams.first(inside, diagrams.leaf("free"))
    assert simplify(diagrams, node, diagrams.leaf("free")) is diagrams.leaf("a")


@given(functions(answer_sets))
def test_volumes_count_the_points_of_each_answer(function):
    counted = {}
    for held in function.values():
        counted[held] = counted.get(held, 0) + 1
    assert volume(built(Diagrams(TOPS), function), TOPS) == counted


@given(functions(answer_sets))
def test_paths_are_disjoint_and_cover_the_space(function):
    found = list(paths(built(Diagrams(TOPS), function)))
    for point in POINTS:
        assert [answers for box, answers in found if has(box, point)] == [function[point]]


@given(functions(answer_sets), boxes())
def test_paths_and_answers_within_a_box_are_those_of_its_points(function, box):
    node = built(Diagrams(TOPS), function)
    found = list(paths_within(node, box))
    for point in POINTS:
        expected = [function[point]] if has(box, point) else []
        assert [answers for held, answers in found if has(held, point)] == expected
    inside = [function[point] for point in POINTS if has(box, point)]
    assert answers_within(node, box) == set().union(*inside)
