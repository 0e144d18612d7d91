"""The listing: sorted, independent of order, ids that collide caught, chunks named by what they hold."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import listing, staging
from pipeline.errors import DataError
from pipeline.sources.base import Entry


def reasons(entries):
    table = listing.list_inputs(entries)
    return dict(zip(table["id"].to_pylist(), table["reason"].to_pylist()))


@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=60, unique=True), st.randoms())
def test_the_order_of_listing_does_not_matter(numbers, chance):
    entries = [Entry(str(n), f"images/{n}.jpg") for n in numbers]
    expected = listing.list_inputs(entries)
    chance.shuffle(entries)
    assert listing.list_inputs(entries).equals(expected)
    ids = expected["id"].to_pylist()
    assert ids == sorted(ids)


def test_entries_come_back_as_they_went_in():
    entries = [Entry(f"{i:02d}", "a.csv", 5 * i, 4, "zip", "train", "g", '{"x": 1}', i, "", "") for i in range(20)]
    assert list(listing.entries(listing.list_inputs(entries))) == entries


def test_no_input_is_an_error():
    with pytest.raises(DataError, match="no face at all"):
        listing.list_inputs([])


def test_an_identical_row_is_kept_once():
    rows = [Entry("a", "a.jpg", payload="p", line=line) for line in (7, 3, 9)]
    for order in itertools.permutations(rows):
        table = listing.list_inputs(order)
        assert table["line"].to_pylist() == [3, 7, 9]
        assert table["reason"].to_pylist() == ["", "duplicate_row", "duplicate_row"]


@pytest.mark.parametrize("difference", [{"path": "b.jpg"}, {"payload": "q"}, {"split": "test"}, {"offset": 4}])
def test_one_id_for_two_inputs_stops_and_shows_both(difference):
    first = {"id": "a", "path": "a.jpg", "payload": "p", "split": "train"}
    with pytest.raises(DataError, match="'a' stands for two different inputs") as caught:
        listing.list_inputs([Entry(**first), Entry(**(first | difference))])
    for value in difference.values():
        assert repr(value) in str(caught.value)


def test_a_rejected_row_does_not_collide():
    table = listing.list_inputs([Entry("a", "a.jpg"), Entry("a", "", reason="bad_row", detail="line 3")])
    assert sorted(table["reason"].to_pylist()) == ["", "bad_row"]


@pytest.mark.parametrize(
    ("first", "second"),
    [("Face", "face"), ("é", "e\u0301"), ("STRASSE", "straße"), ("ﬁ", "fi"), ("\u0345", "\u03b9")],
)
def test_ids_that_a_file_system_may_confuse_are_all_rejected(first, second):
    found = reasons([Entry(first, "1.jpg"), Entry(second, "2.jpg"), Entry("other", "3.jpg")])
    assert found == {first: "ambiguous_id", second: "ambiguous_id", "other": ""}


def test_chunks_cover_the_listing_and_are_named_by_it(tmp_path):
    where = staging.Staging(str(tmp_path / "staging"))
    where.create()
    entries = [Entry(f"{i:05d}", f"{i}.jpg") for i in range(1000)]
    random.Random(0).shuffle(entries)
    table = listing.list_inputs(entries)
    chunks = listing.cut_chunks(table, where, "settings")
    assert sum(chunk.rows for chunk in chunks) == 1000
    assert len({chunk.key for chunk in chunks}) == len(chunks) > 1
    back = [e for chunk in chunks for e in listing.entries(staging.read_table(where.scan_path(chunk.index)))]
    assert back == sorted(entries, key=lambda entry: entry.id)

    assert listing.cut_chunks(table, where, "settings") == chunks
    others = listing.cut_chunks(table, where, "other settings")
    assert not {chunk.key for chunk in chunks} & {chunk.key for chunk in others}
    changed = listing.list_inputs([*entries[1:], Entry(entries[0].id, "another.jpg")])
    moved = [a.key != b.key for a, b in zip(chunks, listing.cut_chunks(changed, where, "settings"))]
    assert sum(moved) == 1
