"""Hundreds of clusters, each with its own faults, against what must hold of all of them; see `support.cluster_model`."""

import os
from collections.abc import Callable

import pytest
from attrs import evolve

from relay.cluster.lease import Lease
from relay.cluster.log import LogReader
from relay.cluster.replica import LeaseGrant, Replica
from support import cluster_model
from support.cluster_model import Store, Violated, World

#: Runs of each kind of store; TICKRELAY_SEEDS asks for more.
SEEDS = int(os.environ.get("TICKRELAY_SEEDS", "400"))
#: Parts of them, so that they run at the same time.
SLICES = 4


@pytest.mark.timeout(0)
@pytest.mark.parametrize("part", range(SLICES))
@pytest.mark.parametrize("lossy", [False, True], ids=["store that keeps all", "store that loses a second"])
def test_a_cluster_keeps_its_promises(lossy: bool, part: int) -> None:
    seeds = range(part, SEEDS, SLICES)
    assert _leads(seeds, lossy=lossy) > len(seeds)  # the faults did bring takeovers


def _leads(seeds: range, *, lossy: bool = False) -> int:
    """Run these; return how often a node became the owner."""
    leads = resumed = 0
    for seed in seeds:
        world = World(seed, lossy=lossy)
        world.run(15)
        leads += world.leads
        resumed += world.resumed
    assert resumed > len(seeds)
    return leads


def _fences_do_not_grow(patch: pytest.MonkeyPatch) -> None:
    acquire = Store.acquire

    def same(store: Store, node: str, now: float) -> LeaseGrant | float:
        granted = acquire(store, node, now)
        return granted if isinstance(granted, float) else evolve(granted, fence=1)

    patch.setattr(Store, "acquire", same)


def _no_margin(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Lease, "held", lambda lease, now: bool(lease.token) and now < lease.until + 2)


def _no_numbers_left_out(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cluster_model, "WINDOW", 1)


def _no_look_for_holes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(LogReader, "missed", property(lambda _: False, lambda _, __: None), raising=False)


def _durable_told_before_it_is_logged(patch: pytest.MonkeyPatch) -> None:
    append = Replica.append

    def tell_first(replica: Replica, name: str, entry: object) -> None:
        append(replica, name, entry)  # type: ignore[arg-type]
        replica.topics.publish(entry)  # type: ignore[arg-type]

    patch.setattr(Replica, "append", tell_first)


def _resumes_are_answered_at_once(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(cluster_model.Node, "has_read", lambda node, ends: node.loaded)


def _names_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    insert = Store.insert
    patch.setattr(Store, "insert", lambda store, token, key: insert(store, token, key) is not None)


@pytest.mark.parametrize(
    ("broken", "says"),
    [
        (_fences_do_not_grow, "never heard|twice|has .*, the owner"),
        (_no_margin, "uses the session that"),
        (_no_numbers_left_out, " is (quote|gap).* and (quote|gap)"),
        (_no_look_for_holes, "never heard|twice"),
        (_durable_told_before_it_is_logged, "published .* twice"),
        (_resumes_are_answered_at_once, "had shown"),
        (_names_are_not_kept, "was sent twice"),
    ],
)
def test_the_judge_notices_a_cluster_that_breaks_its_promises(
    broken: Callable[[pytest.MonkeyPatch], None], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(monkeypatch)
    with pytest.raises(Violated, match=says):
        _leads(range(200))
