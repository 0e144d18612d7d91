"""The order of a stream: permutations that are functions of (seed, epoch), found at any place at once."""

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from datasets import ordering
from datasets.ordering import BLOCK, WINDOW, Order, example_seeds


def epoch_of(order: Order, epoch: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and repeats of one epoch, window by window."""
    windows = [order.window(epoch * order.windows + i) for i in range(order.windows)]
    assert {number for number, _, _ in windows} == {epoch}
    return tuple(np.concatenate([window[part] for window in windows]) for part in (1, 2))


@hypothesis.given(strategies.integers(1, 4 * WINDOW), strategies.integers(0, 2**63 - 1), strategies.integers(0, 10**6))
def test_an_epoch_is_every_row_once(count, seed, epoch):
    rows, repeats = epoch_of(Order(count, seed), epoch)
    np.testing.assert_array_equal(np.sort(rows), np.arange(count))
    assert not repeats.any()


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [tuple(epoch_of(Order(500, seed), epoch)[0]) for seed in (0, 1, 2**62) for epoch in (0, 1, 2)]
    assert len(set(orders)) == 9


def test_shuffle_false_is_the_published_order():
    np.testing.assert_array_equal(epoch_of(Order(3000, shuffle=False), 7)[0], np.arange(3000))


def test_a_window_needs_nothing_that_came_before():
    whole = epoch_of(Order(5000, 3), 6)[0]
    _, rows, _ = Order(5000, 3).window(6 * 5 + 2)
    np.testing.assert_array_equal(rows, whole[2 * WINDOW : 3 * WINDOW])


def test_examples_are_those_of_the_windows():
    order = Order(2500, 3)
    rows, repeats = (np.concatenate([epoch_of(order, epoch)[part] for epoch in (0, 1, 2)]) for part in (0, 1))
    seeds = np.concatenate([example_seeds(3, index, rows[2500 * index :][:2500], repeats[:2500]) for index in range(3)])
    for first, stop in ((0, 7500), (0, 1), (1000, 1100), (2400, 5100), (6000, 7500)):
        found = order.examples(first, stop)
        np.testing.assert_array_equal(found[0], rows[first:stop])
        np.testing.assert_array_equal(found[1], seeds[first:stop])
    assert [order.window_at(example) for example in (0, 1023, 1024, 2499, 2500, 3524)] == [0, 0, 1, 2, 3, 4]


def test_a_window_is_read_in_few_pieces():
    order = Order(100_000)
    for number in range(5):
        rows = np.sort(order.window(number)[1])
        assert len(rows) == WINDOW
        assert 1 + np.count_nonzero(np.diff(rows) != 1) <= WINDOW / BLOCK + 1


def test_rows_are_well_mixed():
    """Where a row comes has nothing to do with where it stands, nor with where it came in the epoch before."""
    first, second = (np.argsort(epoch_of(Order(100_000), epoch)[0]) for epoch in (0, 1))
    # Blocks of 32 move as one, so the places of 3,125 blocks are independent: 0.07 is four standard deviations.
    assert abs(np.corrcoef(first, np.arange(100_000))[0, 1]) < 0.07
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.07
    keys = ordering.hash_keys(0, 0, np.arange(100_000)) / 2**64
    assert abs(keys.mean() - 0.5) < 0.005 and abs(keys.std() - 12**-0.5) < 0.005


@pytest.mark.parametrize("classes", [None, np.arange(4001, dtype=np.int8) % 7 - 1])
def test_hosts_read_parts_of_one_order(classes):
    whole = Order(4001, 5, classes=classes)
    length = whole.epoch_length
    bounds = [i * length // 3 for i in range(4)]
    parts = [
        epoch_of(Order(4001, 5, classes=classes, first=first, length=stop - first), 2)
        for first, stop in itertools.pairwise(bounds)
    ]
    expected = np.stack(epoch_of(whole, 2), 1)
    found = np.concatenate([np.stack(part, 1) for part in parts])
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


def test_resampling_gives_each_class_an_equal_part():
    classes = np.repeat(np.array([-1, 0, 1, 2, 5], np.int8), [50, 3000, 700, 290, 10])
    order = Order(len(classes), 1, classes=classes)
    assert order.epoch_length == 4 * 1000 + 50
    first, second = (epoch_of(order, epoch) for epoch in (0, 1))
    for rows, repeats in (first, second):
        assert np.bincount(classes[rows] + 1).tolist() == [50, 1000, 1000, 1000, 0, 0, 1000]
        # No row comes oftener than a balanced choice needs, and each time it has a number of its own.
        assert np.bincount(rows)[classes == 5].tolist() == [100] * 10
        assert set(np.bincount(rows)[classes == 2]) == {3, 4}
        assert np.bincount(rows)[classes == 0].max() == 1
        assert len(set(zip(rows.tolist(), repeats.tolist()))) == len(rows)
    # Another third of the common class in each epoch.
    common = [set(rows[classes[rows] == 0]) for rows, _ in (first, second)]
    assert 200 < len(common[0] & common[1]) < 470
    # Repetitions lie all over the epoch.
    places = np.flatnonzero(first[0] == np.flatnonzero(classes == 5)[0])
    assert places.min() < 400 and places.max() > 3650 and np.diff(places).max() < 400


def test_every_example_has_seeds_of_its_own():
    rows = np.repeat(np.arange(20_000), 2)
    repeats = np.tile([0, 1], 20_000)
    seeds = np.concatenate([ordering.example_seeds(0, epoch, rows, repeats) for epoch in (0, 1)])
    assert seeds.dtype == np.int32 and seeds.shape == (80_000, 2)
    assert len(np.unique(seeds, axis=0)) == 80_000
    assert (ordering.example_seeds(1, 0, rows, repeats) != seeds[:40_000]).any(1).all()


def test_the_order_never_changes():
    """A stream that a training run resumes must be the one it began with, also under a later version."""
    assert Order(10_000, 7).window(23)[1][:8].tolist() == [3492, 1345, 1904, 4327, 3502, 8164, 3513, 7670]
    assert ordering.example_seeds(7, 2, np.arange(2), np.zeros(2, int)).tolist() == [
        [-1312592400, 379780740],
        [-1855747351, -858975015],
    ]
