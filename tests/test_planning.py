"""Splits and shards: a pure function, checked by properties and by small examples."""

import dataclasses
import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import planning
from pipeline.errors import DataError, UsageError
from pipeline.sources.base import SPLITS

THIRDS = (("train", 0.8), ("validation", 0.1), ("test", 0.1))
TRAIN, VALIDATION, TEST = range(3)


def make_rows(count, **columns):
    defaults = {
        "order": planning.order_keys(0, map(str, range(count))),
        "content": np.arange(count),
        "group": np.arange(count),
        "declared": np.full(count, -1, np.int8),
        "expression": np.zeros(count, np.int8),
        "size": np.full(count, 1000),
        "known": np.ones(count, bool),
        "sentinel": np.zeros(count, bool),
    }
    return planning.Rows(**(defaults | {k: np.asarray(v, defaults[k].dtype) for k, v in columns.items()}))


@st.composite
def undeclared(draw):
    count = draw(st.integers(1, 120))
    return make_rows(
        count,
        content=draw(st.lists(st.integers(0, 60), min_size=count, max_size=count)),
        group=draw(st.lists(st.integers(0, 60), min_size=count, max_size=count)),
        expression=draw(st.lists(st.integers(-1, 7), min_size=count, max_size=count)),
        order=planning.order_keys(draw(st.integers(0, 5)), map(str, range(count))),
    )


@given(undeclared())
def test_equal_bytes_and_equal_groups_share_a_split(rows):
    plan = planning.plan(rows, planning.Policy(THIRDS))
    for codes in (rows.content, rows.group):
        for code in np.unique(codes):
            assert len(set(plan.split[codes == code])) == 1


@given(undeclared())
def test_every_row_is_written_once_in_the_order_of_its_key(rows):
    plan = planning.plan(rows, planning.Policy(THIRDS))
    assert sorted(plan.order) == list(range(len(rows.order)))
    for shard in plan.shards:
        members = plan.order[shard.start : shard.start + shard.records]
        assert {SPLITS[s] for s in plan.split[members]} == {shard.split}
        assert (np.diff(rows.order[members].astype(object)) > 0).all()
    for split, shards in itertools.groupby(plan.shards, key=lambda shard: shard.split):
        shards = list(shards)
        assert [shard.index for shard in shards] == list(range(shards[0].count)), split
        assert max(s.records for s in shards) - min(s.records for s in shards) <= 1


@given(undeclared())
def test_each_class_fills_its_splits_exact_to_one_unit(rows):
    alone = dataclasses.replace(rows, group=np.arange(len(rows.order)), content=np.arange(len(rows.order)))
    plan = planning.plan(alone, planning.Policy(THIRDS))
    for expression in np.unique(rows.expression):
        members = rows.expression == expression
        for index, (_, fraction) in enumerate(THIRDS):
            assert abs((plan.split[members] == index).sum() - fraction * members.sum()) <= 1


@given(undeclared())
def test_the_splits_of_all_classes_together_are_as_long_as_asked_for(rows):
    alone = dataclasses.replace(rows, group=np.arange(len(rows.order)), content=np.arange(len(rows.order)))
    plan = planning.plan(alone, planning.Policy(THIRDS))
    for index, (_, fraction) in enumerate(THIRDS):
        assert abs((plan.split == index).sum() - fraction * len(rows.order)) <= 2


def test_small_classes_fill_every_split():
    rows = make_rows(40, expression=np.repeat(np.arange(8), 5))
    plan = planning.plan(rows, planning.Policy(THIRDS))
    assert np.bincount(plan.split).tolist() == [32, 4, 4]


def test_the_plan_does_not_depend_on_the_codes():
    rows = make_rows(200, content=np.arange(200) // 3, group=np.arange(200) // 2)
    renamed = dataclasses.replace(rows, content=999 - rows.content, group=rows.group * 7 + 5)
    first, second = (planning.plan(r, planning.Policy(THIRDS)) for r in (rows, renamed))
    np.testing.assert_array_equal(first.split, second.split)
    np.testing.assert_array_equal(first.order, second.order)


def test_a_seed_gives_another_order_and_another_split():
    ids = [str(i) for i in range(300)]
    plans = [planning.plan(make_rows(300, order=planning.order_keys(s, ids)), planning.Policy(THIRDS)) for s in (0, 1)]
    assert (plans[0].order != plans[1].order).any()
    assert (plans[0].split != plans[1].split).any()


def test_order_keys_are_the_documented_hash():
    import hashlib

    (key,) = planning.order_keys(7, ["train_set/5"])
    assert int(key) == int.from_bytes(hashlib.sha256(b"7\0train_set/5").digest()[:8], "big")


def test_declared_splits_are_kept():
    declared = np.arange(90) % 3
    plan = planning.plan(make_rows(90, declared=declared), planning.Policy(THIRDS))
    np.testing.assert_array_equal(plan.split, declared)


def test_holdout_carves_validation_out_of_train_alone():
    declared = np.where(np.arange(200) < 150, TRAIN, TEST)
    plan = planning.plan(make_rows(200, declared=declared), planning.Policy(THIRDS, holdout=0.1))
    assert (plan.split[150:] == TEST).all()
    assert (plan.split[:150] == VALIDATION).sum() == 15


@pytest.mark.parametrize(
    ("declared", "policy", "message"),
    [
        (-1, {"holdout": 0.1}, "--holdout is for a source that declares"),
        (TRAIN, {"splits_given": True}, "--splits is for a source that declares no splits"),
        (VALIDATION, {"holdout": 0.1}, "declares one already"),
    ],
)
def test_flags_that_contradict_the_source_are_refused(declared, policy, message):
    with pytest.raises(UsageError, match=message):
        planning.plan(make_rows(10, declared=np.full(10, declared)), planning.Policy(THIRDS, **policy))


LEAKY = {
    "content": [1, 1, 2, 2, 3, 3, 3, 4],
    "declared": [TRAIN, TEST, TRAIN, VALIDATION, TEST, TRAIN, VALIDATION, TRAIN],
}


def test_a_leak_stops_and_names_the_images():
    with pytest.raises(DataError, match="3 groups") as caught:
        planning.plan(make_rows(8, **LEAKY), planning.Policy(THIRDS), list("abcdefgh"))
    assert "a (train) = b (test)" in str(caught.value)
    assert "--on_leak=drop" in str(caught.value).splitlines()[0]


def test_a_leak_dropped_spares_test_first_then_validation():
    plan = planning.plan(make_rows(8, **LEAKY), planning.Policy(THIRDS, on_leak="drop"))
    dropped = planning.OUTCOMES.index("leak")
    assert plan.outcome.tolist() == [dropped, 0, dropped, 0, 0, dropped, dropped, 0]
    assert len(plan.leaks) == 3


def test_a_leak_allowed_changes_nothing_and_is_counted():
    plan = planning.plan(make_rows(8, **LEAKY), planning.Policy(THIRDS, on_leak="allow"))
    assert not plan.outcome.any()
    assert len(plan.leaks) == 3


def test_a_filtered_copy_is_no_leak():
    rows = make_rows(3, content=[1, 1, 2], declared=[TRAIN, TEST, TRAIN], known=[False, True, True])
    plan = planning.plan(rows, planning.Policy(THIRDS))
    assert plan.outcome.tolist() == [planning.OUTCOMES.index("no_label"), 0, 0]


def test_sentinels_are_kept_or_dropped():
    rows = make_rows(4, sentinel=[True, False, True, False])
    assert not planning.plan(rows, planning.Policy(THIRDS)).outcome.any()
    dropped = planning.plan(rows, planning.Policy(THIRDS, sentinels="drop"))
    assert (dropped.outcome == planning.OUTCOMES.index("sentinel")).tolist() == [True, False, True, False]


def test_the_limit_keeps_the_first_of_the_order():
    rows = make_rows(100)
    whole = planning.plan(rows, planning.Policy((("train", 1.0),)))
    limited = planning.plan(rows, planning.Policy((("train", 1.0),), max_examples_per_split=10))
    assert limited.order.tolist() == whole.order[:10].tolist()
    assert (limited.outcome > 0).sum() == 90


def test_nothing_left_is_an_error():
    with pytest.raises(DataError, match=r"no face is left to write: 3 × no_label \(no head has a label\)"):
        planning.plan(make_rows(3, known=[False] * 3), planning.Policy(THIRDS))
    with pytest.raises(DataError, match="no face is left to write: every input was rejected; a lower --max_bad"):
        planning.plan(make_rows(0), planning.Policy(THIRDS))


@pytest.mark.parametrize(
    ("examples", "size", "policy", "shards"),
    [
        (100, 1000, {}, 1),
        (1000, 1000, {}, 4),
        (100_000, 20_000, {}, 16),  # 2 GB in shards of 128 MB
        (100_000, 20_000, {"shard_mb": 500}, 8),
        (100, 1000, {"num_shards": 7}, 7),
        (3, 1000, {"num_shards": 7}, 3),
    ],
)
def test_the_number_of_shards(examples, size, policy, shards):
    rows = make_rows(examples, size=np.full(examples, size))
    plan = planning.plan(rows, planning.Policy((("train", 1.0),), **policy))
    assert len(plan.shards) == shards


@given(st.lists(st.integers(0, 9), max_size=40))
def test_equal_groups(codes):
    expected = [np.flatnonzero(np.array(codes) == c).tolist() for c in set(codes) if codes.count(c) > 1]
    found = [group.tolist() for group in planning.equal_groups(np.array(codes, np.int64))]
    assert found == sorted(expected)
