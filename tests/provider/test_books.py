"""The book keeper alone: joining, holes, times as numbers, bounds, checksums."""

import pytest

from relay.adapter import Book, Sequence, Session
from relay.model.events import Depth, Gap
from relay.provider.books import Books

CONTIGUOUS = Sequence(scope="topic", contiguous=True)


def books(book=Book.FETCHED, sequence=CONTIGUOUS, **options):
    keeper = Books(Session(url="wss://x", book=book, sequence=sequence), **options)
    keeper.open("S")
    return keeper


def snapshot(last, bids=(), asks=(), checksum=None):
    return Depth(symbol="S", bids=bids, asks=asks, snapshot=True, last_seq=last, checksum=checksum)


def delta(first, last, bids=(), asks=(), checksum=None):
    return Depth(symbol="S", bids=bids, asks=asks, snapshot=False, first_seq=first, last_seq=last, checksum=checksum)


@pytest.mark.parametrize(
    ("held", "covered", "shown"),
    [
        ([(1, 2), (3, 4)], 4, []),  # all contained
        ([(1, 2), (3, 4)], 2, [(3, 4)]),  # L + 1 is the next first
        ([(1, 2), (3, 6)], 4, [(3, 6)]),  # reaches across L: published as it is
        ([(5, 6)], 3, None),  # first_seq > L + 1: the snapshot is too old
        ([(5, 6)], 4, [(5, 6)]),
        ([(5, 6)], 6, []),
        ([(5, 6)], 9, []),
    ],
)
def test_the_join(held, covered, shown):
    keeper = books()
    asked = [keeper.offer(delta(*numbers)).snapshot_of for numbers in held]
    assert asked == ["S"] + [None] * (len(held) - 1)
    kept = keeper.offer(snapshot(covered))
    if shown is None:
        assert kept.out == ()
        assert kept.snapshot_of == "S"
        assert keeper.collecting("S")
    else:
        assert [(e.first_seq, e.last_seq) for e in kept.out[1:]] == shown
        assert kept.out[0].snapshot
        assert not keeper.collecting("S")
    assert keeper.held + sum(keeper.dropped.values()) + len(kept.out) == len(held) + 1


def test_a_hole_among_the_held_ones_is_a_hole():
    keeper = books()
    for numbers in ((1, 1), (2, 2), (5, 5), (6, 6)):
        keeper.offer(delta(*numbers))
    kept = keeper.offer(snapshot(1))
    assert [type(event) for event in kept.out] == [Depth, Depth, Gap]
    assert (kept.out[2].from_seq, kept.out[2].to_seq) == (3, 4)
    assert kept.snapshot_of == "S"
    assert [e.last_seq for e in keeper.offer(snapshot(5)).out] == [5, 6]


def test_an_old_fetched_snapshot_does_not_turn_a_live_book_back():
    keeper = books()
    keeper.offer(snapshot(5))
    keeper.offer(delta(6, 8))
    assert keeper.offer(snapshot(6)).out == ()
    assert keeper.offer(delta(9, 9)).out != ()


def test_a_stream_snapshot_always_replaces():
    keeper = books(Book.DELTAS)
    keeper.offer(snapshot(500))
    assert keeper.offer(snapshot(1)).out != ()
    assert keeper.offer(delta(2, 2)).out != ()


def test_one_number_per_delta_without_a_first():
    keeper = books(Book.DELTAS)
    keeper.offer(snapshot(5))
    assert keeper.offer(delta(None, 6)).out != ()
    assert isinstance(keeper.offer(delta(None, 8)).out[0], Gap)


def test_a_chain_goes_on_where_the_provider_begins_its_numbers_anew():
    """OKX: after maintenance ``seqId`` is lower than the ``prevSeqId`` beside it."""
    keeper = books(Book.DELTAS)
    keeper.offer(snapshot(90))
    chain = [(91, 95), (96, 3), (4, 9), (10, 10)]  # prevSeqId + 1, seqId
    assert [keeper.offer(delta(*numbers)).out[0].last_seq for numbers in chain] == [95, 3, 9, 10]
    (gap,) = keeper.offer(delta(12, 13)).out
    assert (gap.from_seq, gap.to_seq) == (11, 11)


def test_times_as_numbers_only_say_what_a_snapshot_contains():
    keeper = books(sequence=Sequence(scope="topic", contiguous=False))
    keeper.offer(delta(None, 1_000_100))
    keeper.offer(delta(None, 1_000_900))
    assert [e.last_seq for e in keeper.offer(snapshot(1_000_500)).out] == [1_000_500, 1_000_900]
    assert keeper.offer(delta(None, 9_000_000)).out != ()  # a big step is no hole
    assert keeper.offer(delta(None, 9_000_000)).out != ()  # two changes at one time are two changes
    assert keeper.offer(delta(None, 1_000_500)).out == ()


def test_the_buffer_is_bounded_and_gives_up_the_oldest():
    keeper = books(buffer=3)
    for number in range(1, 6):
        keeper.offer(delta(number, number))
    assert keeper.held == 3
    assert keeper.dropped["book_buffer"] == 2
    assert keeper.offer(snapshot(1)).snapshot_of == "S"
    assert [e.last_seq for e in keeper.offer(snapshot(2)).out] == [2, 3, 4, 5]


def test_whole_snapshots_pass_and_an_unexpected_delta_waits():
    keeper = books(Book.SNAPSHOTS, Sequence())
    assert keeper.offer(delta(None, None)).out == ()
    assert len(keeper.offer(snapshot(None)).out) == 1
    assert len(keeper.offer(snapshot(None)).out) == 1


def test_what_nobody_wants_is_dropped():
    keeper = books()
    keeper.close("S")
    assert keeper.offer(snapshot(1)).out == ()
    assert keeper.dropped["unwanted"] == 1


def text(bids, asks):
    return "|".join(f"{price}x{size}" for price, size in (*bids, *asks))


def test_checksums_over_the_providers_own_digits():
    keeper = books(Book.DELTAS, Sequence(), checksum=text)
    first = snapshot(None, [("9", "1.0"), ("10.0", "2")], [("11", "1")], checksum="10.0x2|9x1.0|11x1")
    assert keeper.offer(first).out == (first,)
    good = delta(None, None, [("9", "0.00")], checksum="10.0x2|11x1")
    assert keeper.offer(good).out == (good,)
    kept = keeper.offer(delta(None, None, [("8", "1")], checksum="other"))
    assert isinstance(kept.out[0], Gap)
    assert kept.snapshot_of == "S"
    assert keeper.dropped["checksum"] == 1
    assert keeper.offer(snapshot(None, checksum="wrong")).out == ()


def test_what_falls_out_of_the_providers_window_is_removed_for_everybody():
    keeper = books(Book.DELTAS, Sequence(), checksum=text, levels=2)
    keeper.offer(snapshot(None, [("3", "1"), ("2", "1")], [("5", "1"), ("6.0", "1")]))
    (pushed,) = keeper.offer(delta(None, None, [("4", "1")], [("5.5", "2")], checksum="4x1|3x1|5x1|5.5x2")).out
    assert pushed.bids == (("4", "1"), ("2", "0"))
    assert pushed.asks == (("5.5", "2"), ("6.0", "0"))
    (back,) = keeper.offer(delta(None, None, [("4", "0"), ("1", "5")], checksum="3x1|1x5|5x1|5.5x2")).out
    assert back.bids == (("4", "0"), ("1", "5"))


def test_a_level_is_the_same_however_its_price_is_written():
    keeper = books(Book.DELTAS, Sequence(), checksum=text)
    keeper.offer(snapshot(None, [("1.10", "1")], [("5", "1")], checksum="1.10x1|5x1"))
    keeper.offer(delta(None, None, [("1.1", "2")], checksum="1.1x2|5x1"))
    keeper.offer(delta(None, None, [("1.100", "0.0")], checksum="5x1"))
    assert not any(keeper.dropped.values())
