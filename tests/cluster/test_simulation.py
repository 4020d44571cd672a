"""Thousands of clusters, each with its own faults, against what must hold of all of them; see `support.cluster_model`."""

import os

import pytest

from support.cluster_model import World

#: Runs; TICKRELAY_SEEDS asks for more.
SEEDS = int(os.environ.get("TICKRELAY_SEEDS", "50"))


@pytest.mark.parametrize("lossy", [False, True], ids=["store that keeps all", "store that loses a second"])
def test_a_cluster_keeps_its_promises(lossy: bool) -> None:
    leads = 0
    for seed in range(SEEDS):
        world = World(seed, lossy=lossy)
        world.run(15)
        leads += world.leads
    assert leads > 2 * SEEDS  # the faults did bring takeovers
