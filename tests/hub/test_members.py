"""Members of presence channels, users and their watchers, subscription counts, client events."""

import pytest

from relay.hub.members import Presence, SubscriptionCounts, Users
from relay.pusher.apps import Limits
from relay.pusher.messages import PresenceMember

# Presence ------------------------------------------------------------------------------------------------------------


def test_a_member_joins_with_its_first_connection_and_leaves_with_its_last():
    presence = Presence()
    ada = PresenceMember("ada", '"first tab"')
    assert presence.join("1.1", ada)
    assert not presence.join("1.2", PresenceMember("ada", '"second tab"'))
    assert list(presence) == [ada]
    assert presence.leave("1.1") is None
    assert presence.leave("1.2") == "ada"
    assert not list(presence)


def test_presence_over_the_wire(relay):
    ada, bob, tab = relay.client(), relay.client(), relay.client()
    assert ada.subscribe("presence-room", "ada")[0]["data"] == {
        "presence": {"ids": ["ada"], "hash": {"ada": {"name": "Ada"}}, "count": 1}
    }
    got = bob.subscribe("presence-room", "bob")
    assert got.names == ["subscription_succeeded"]
    assert got[0]["data"]["presence"]["ids"] == ["ada", "bob"]
    tab.subscribe("presence-room", "ada")
    (added,) = ada.take()
    assert (added["event"], added["data"]) == (
        "pusher_internal:member_added",
        {"user_id": "bob", "user_info": {"name": "Bob"}},
    )
    ada.gone()
    assert bob.take() == []
    tab.unsubscribe("presence-room")
    assert [(m["event"], m["data"]) for m in bob.take()] == [("pusher_internal:member_removed", {"user_id": "ada"})]
    assert [(event.name, event.user_id) for event in relay.channel_events] == [
        ("channel_occupied", None),
        ("member_added", "ada"),
        ("member_added", "bob"),
        ("member_removed", "ada"),
    ]
    bob.gone()
    assert relay.channel_event_names[-2:] == ["member_removed", "channel_vacated"]


def test_a_full_presence_channel_refuses_new_users_but_not_new_tabs(relay_of, app_of):
    relay = relay_of(app_of(limits=Limits(presence_members=2)))
    for user in ("ada", "bob", "ada"):
        assert relay.client().subscribe("presence-room", user).names == ["subscription_succeeded"]
    late = relay.client()
    (refused,) = late.subscribe("presence-room", "eve")
    assert refused["event"] == "pusher:subscription_error"
    assert refused["data"] == {
        "type": "LimitReached",
        "error": "the presence channel is full: it has 2 members (limit presence_members)",
        "status": 403,
    }
    assert relay.hub.users("1", "presence-room") == ["ada", "bob"]
    assert late.subscribe("presence-room", "ada").names == ["subscription_succeeded"]  # it may ask again


def test_an_account_stream_may_have_members(relay):
    first, second = relay.client(), relay.client()
    first.subscribe("presence-account.x.A", "ada")
    second.subscribe("presence-account.x.A", "bob")
    assert first.take().names == ["member_added"]


# Client events -------------------------------------------------------------------------------------------------------


def test_a_client_event_reaches_the_others_with_its_sender_and_leaves_no_trace(relay):
    ada, bob, asking = relay.client(), relay.client(), relay.client()
    for client, user in ((ada, "ada"), (bob, "bob")):
        client.subscribe("presence-cache-room", user)
    asking.subscribe("presence-cache-room", "cy", ids=True)
    ada.take()
    bob.take()
    assert ada.send("client-typing", {"at": 1}, channel="presence-cache-room") == []
    message = {"event": "client-typing", "channel": "presence-cache-room", "data": {"at": 1}, "user_id": "ada"}
    assert bob.take() == asking.take() == [message]
    assert relay.client().subscribe("presence-cache-room", "dan", rewind=9).names[-1] == "cache_miss"
    told = next(event for event in relay.channel_events if event.name == "client_event")
    assert (told.event, told.data, told.user_id, told.socket_id) == ("client-typing", '{"at": 1}', "ada", ada.socket_id)


def test_a_client_event_needs_membership(relay):
    ada, eve = relay.client(), relay.client()
    ada.subscribe("private-room")
    assert eve.send("client-typing", {}, channel="private-room").names == ["error"]
    assert ada.take() == []


def test_an_excluded_connection_does_not_get_its_own_event(relay):
    ada, bob, asking = relay.client(), relay.client(), relay.client()
    for client in (ada, bob):
        client.subscribe("room")
    asking.subscribe("room", ids=True)
    relay.trigger("room", socket_id=ada.socket_id)
    relay.trigger("room", socket_id=asking.socket_id)
    assert [client.take().names for client in (ada, bob)] == [["news"], ["news", "news"]]
    assert asking.take().names == ["news", "tickrelay:position", "tickrelay:position"]


# Users ---------------------------------------------------------------------------------------------------------------


def test_watchers_are_notified_of_the_first_and_last_connection_only():
    users = Users()
    assert users.sign_in("w", "walt", ["ada", "bob"])
    assert users.sign_in("a1", "ada", [])
    assert not users.sign_in("a2", "ada", [])
    assert users.online(["ada", "bob"]) == ["ada"]
    assert users.watchers("ada") == ["w"]
    assert users.sign_out("a1") is None
    assert users.sign_out("a2") == "ada"
    assert users.sign_out("stranger") is None
    users.sign_in("w", "walt", ["bob", "bob"])
    assert users.watchers("ada") == []
    users.sign_out("w")
    assert not users


def test_watchlist_over_the_wire(relay):
    ada, walt, tab = relay.client(), relay.client(), relay.client()
    ada.sign_in("ada")
    got = walt.sign_in("walt", "ada", "bob")
    assert got.names == ["signin_success", "watchlist_events"]
    assert got[1]["data"] == {"events": [{"name": "online", "user_ids": ["ada"]}]}
    tab.sign_in("ada")
    ada.gone()
    assert walt.take() == []
    tab.gone()
    assert [m["data"]["events"] for m in walt.take()] == [[{"name": "offline", "user_ids": ["ada"]}]]
    relay.client().sign_in("bob")
    assert [m["data"]["events"] for m in walt.take()] == [[{"name": "online", "user_ids": ["bob"]}]]


def test_an_event_for_a_user_reaches_all_and_only_the_users_connections(relay):
    one, two, eve = relay.client(), relay.client(), relay.client()
    for client, user in ((one, "ada"), (two, "ada"), (eve, "eve")):
        client.sign_in(user)
    for client in (one, two):
        assert client.subscribe("#server-to-user-ada").names == ["subscription_succeeded"]
    assert eve.subscribe("#server-to-user-ada")[0]["data"]["status"] == 401
    relay.hub.send_to_user("1", "ada", "hello", "{}", relay.now)
    assert [len(client.take()) for client in (one, two, eve)] == [1, 1, 0]


def test_terminating_a_user_closes_all_signed_in_connections_with_4009(relay):
    ada, tab, bob = relay.client(), relay.client(), relay.client()
    ada.sign_in("ada")
    tab.sign_in("ada")
    bob.subscribe("presence-room", "bob")
    ada.subscribe("presence-room", "ada")
    bob.take()
    relay.hub.terminate_user("1", "ada", relay.now)
    for client in (ada, tab, bob):
        client.take()
    assert [client.close_code for client in (ada, tab, bob)] == [4009, 4009, None]
    assert relay.hub.users("1", "presence-room") == ["bob"]


# Subscription counts -------------------------------------------------------------------------------------------------


def test_counts_up_to_a_hundred_are_sent_at_once_larger_ones_every_five_seconds():
    counts = SubscriptionCounts()
    assert all(counts.changed("room", count, 0.0) for count in range(1, 101))
    assert not counts.changed("room", 101, 1.0)
    assert not counts.changed("room", 102, 4.9)
    assert counts.take_due(4.9) == []
    assert counts.take_due(5.0) == ["room"]
    assert counts.take_due(20.0) == []
    assert not counts.changed("room", 103, 9.9)
    assert counts.changed("room", 104, 10.0)
    assert counts.take_due(20.0) == []
    assert counts.changed("room", 100, 10.1)
    assert counts.changed("room", 99, 10.1)
    assert not len(counts)


def test_subscription_counts_go_to_everyone_but_not_on_presence_channels(relay_of, app_of):
    relay = relay_of(app_of(subscription_count=True))
    ada, bob = relay.client(), relay.client()
    assert ada.subscribe("room").names == ["subscription_succeeded", "subscription_count"]
    assert bob.subscribe("room")[-1]["data"] == {"subscription_count": 2}
    bob.gone()
    assert [m["data"]["subscription_count"] for m in ada.take()] == [2, 1]
    assert ada.subscribe("presence-room", "ada").names == ["subscription_succeeded"]
    counts = [event.subscription_count for event in relay.channel_events if event.name == "subscription_count"]
    assert counts == [1, 2, 1]


def test_the_count_of_a_large_channel_is_sent_on_a_later_tick(relay_of, app_of):
    relay = relay_of(app_of(subscription_count=True))
    clients = [relay.client() for _ in range(103)]
    for client in clients:
        client.subscribe("room")
    clients[0].take()
    relay.tick(4)
    assert clients[0].take() == []
    relay.tick(1)
    assert [m["data"]["subscription_count"] for m in clients[0].take()] == [103]


@pytest.mark.parametrize("enabled", [False, True])
def test_counts_are_a_setting(relay_of, app_of, enabled):
    relay = relay_of(app_of(subscription_count=enabled))
    assert ("subscription_count" in relay.client().subscribe("room").names) is enabled
