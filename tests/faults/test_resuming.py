"""A session that stopped waits for its operator: the credentials are read again, and it goes on where it was."""

import trio
from attrs import evolve

from relay.app import Relay
from relay.testing.faults import Cut
from relay.testing.simulator import Close, Refuse
from support.faulty import rig


def reloaded(relay: Relay, password: str) -> None:
    """Reload the configuration with another password, as SIGHUP does."""
    (provider,) = relay._settings.providers
    (account,) = provider.accounts
    account = evolve(account, credentials={**account.credentials, "password": password})
    relay.reload(evolve(relay._settings, providers=(evolve(provider, accounts=(account,)),)))


async def test_a_session_with_refused_credentials_comes_back_with_the_right_ones():
    async with rig("helio") as r:
        (provider,) = r.relay.providers
        right = provider.settings.accounts[0].credentials["password"]
        since = len(r.heard)
        reloaded(r.relay, "wrong")
        assert r.states(since=since) == []  # a session that is up is left alone
        r.upstream.inject(Cut())
        await r.state("FAILED", since=since)
        assert "401" in r.states(since=since)[-1][1]
        dialled = r.upstream.accepted
        reloaded(r.relay, "still wrong")
        await r.subscriber.until(lambda: [state for state, _ in r.states(since=since)].count("FAILED") == 2)
        reloaded(r.relay, right)
        await r.state("CONNECTED", since=since)
        await r.flowing(since=len(r.heard))
        assert r.upstream.accepted > dialled
        connected = next(event for event in r.on(r.status, since=since) if event.get("event") == "CONNECTED")
        assert connected["gap_ms"] > 0
        assert r.problems() == []
        assert "wrong" not in str(r.session.status())


async def test_a_session_that_waits_is_not_hurried():
    """The provider's Retry-After holds whatever the operator reloads for."""
    async with rig("synthetic") as r:
        since = len(r.heard)
        r.simulator.next_connection(Refuse(503, headers={"retry-after": "60"}))
        r.simulator.inject(Close(1012, "restart"))
        await r.subscriber.until(lambda: len(r.states(since=since)) == 2)
        accepted = r.upstream.accepted
        (provider,) = r.relay.providers
        r.relay.reload(evolve(r.relay._settings, providers=(provider.settings,)))
        await trio.sleep(0.2)
        assert r.session.status()["state"] == "waiting"
        assert r.upstream.accepted == accepted
