"""Commands as client events: who receives them, and the answers."""

from typing import Any

import pytest
from attrs import evolve

from relay.auth import ApiKey, hash_key
from relay.hub.app import ChannelKeys
from relay.model.channels import Stream, Topic
from relay.pusher.apps import App
from relay.pusher.signatures import key_auth, sign, verify_authority
from relay.trading.registry import ClientCommand, Rejected, Repeated
from tests.hub.conftest import APP

CHANNEL = "presence-account.x.A"
KEY = ApiKey(name="desk", digest=hash_key("k"), trade=("x.A", "cross*", "*.main"))


class Taking:
    """Takes commands and returns the configured answer."""

    def __init__(self) -> None:
        self.commands: list[ClientCommand] = []
        self.answer: Rejected | Repeated | None = None

    def __call__(self, command: ClientCommand) -> Rejected | Repeated | None:
        self.commands.append(command)
        return self.answer


@pytest.fixture
def taking() -> Taking:
    return Taking()


@pytest.fixture
def relay(relay_of: Any, taking: Taking) -> Any:
    return relay_of(on_command=taking)


def test_a_command_is_for_the_relay_alone(relay: Any, taking: Taking) -> None:
    ada, bob = relay.client(), relay.client()
    ada.subscribe(CHANNEL, "ada")
    bob.subscribe(CHANNEL, "bob")
    ada.take()
    assert ada.send("client-command", {"command": "list_orders", "n": 1}, channel=CHANNEL) == []
    assert bob.take() == []
    assert "client_event" not in relay.channel_event_names
    (command,) = taking.commands
    assert command == ClientCommand(
        stream=Stream("x", Topic(kind="account", account="A")),
        channel=CHANNEL,
        socket_id=ada.socket_id,
        data='{"command": "list_orders", "n": 1}',
    )


def test_numbers_in_a_command_keep_their_digits(relay: Any, taking: Taking) -> None:
    ada = relay.client()
    ada.subscribe(CHANNEL, "ada")
    raw = f'{{"event":"client-command","channel":"{CHANNEL}","data":{{"quantity":1.10}}}}'
    ada.session.receive(raw, relay.now)
    assert taking.commands[0].data == '{"quantity":1.10}'


@pytest.mark.parametrize("channel", [CHANNEL, "private-account.x.A"])
def test_a_command_says_by_which_key_its_channel_was_joined(relay_of: Any, taking: Taking, channel: str) -> None:
    keys = ChannelKeys(digest_of={KEY.name: KEY.digest}.get, refusal=lambda name, channel, app_id: None)
    relay = relay_of(on_command=taking, keys=keys)
    by_key, by_secret = relay.client(), relay.client()
    member = '{"user_id":"desk"}' if channel == CHANNEL else None
    auth = key_auth(APP, KEY.name, KEY.digest, by_key.socket_id, channel, member)
    by_key.send("pusher:subscribe", {"channel": channel, "auth": auth, "channel_data": member})
    by_secret.subscribe(channel, "desk")
    for client in (by_key, by_secret):
        client.send("client-command", {}, channel=channel)
    assert [(command.key, command.digest) for command in taking.commands] == [("desk", KEY.digest), (None, None)]


def test_only_the_sender_gets_the_refusal(relay: Any, taking: Taking) -> None:
    ada, bob = relay.client(), relay.client()
    ada.subscribe(CHANNEL, "ada")
    bob.subscribe(CHANNEL, "bob")
    ada.take()
    taking.answer = Rejected("side: is missing", "c1", "invalid", "side")
    (error,) = ada.send("client-command", {}, channel=CHANNEL)
    said = {"channel": CHANNEL, "id": "c1", "reason": "invalid", "field": "side"}
    assert error == {
        "event": "pusher:error",
        "data": {"code": 4303, "message": "client-command: side: is missing", **said},
    }
    taking.answer = Repeated('{"type":"reply","command_id":"c1"}')
    (again,) = ada.send("client-command", {}, channel=CHANNEL)
    assert again == {"event": "reply", "channel": CHANNEL, "data": {"type": "reply", "command_id": "c1"}}
    assert bob.take() == []


def test_elsewhere_the_name_means_nothing(relay: Any, taking: Taking) -> None:
    ada, bob = relay.client(), relay.client()
    for client, user in ((ada, "ada"), (bob, "bob")):
        client.subscribe("presence-room", user)
        client.subscribe("private-quote.x.S")
    for channel in ("presence-room", "private-quote.x.S"):
        ada.send("client-command", {}, channel=channel)
    assert bob.take().names == ["client-command", "client-command"]
    assert taking.commands == []


def test_other_client_events_of_an_account_go_to_its_members(relay: Any, taking: Taking) -> None:
    ada, bob = relay.client(), relay.client()
    ada.subscribe(CHANNEL, "ada")
    bob.subscribe(CHANNEL, "bob")
    ada.send("client-hello", {}, channel=CHANNEL)
    assert bob.take().names == ["client-hello"]
    assert taking.commands == []


def test_a_hub_that_takes_none_says_so(relay_of: Any) -> None:
    ada = relay_of().client()
    ada.subscribe(CHANNEL, "ada")
    (error,) = ada.send("client-command", {}, channel=CHANNEL)
    assert error["data"]["message"] == "client-command: this relay takes no commands"


# The API key's part --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trade", "provider", "may"),
    [
        ("x.A", "x", True),
        ("x.A", "y", False),
        ("x.A", "xy", False),
        ("*", "x", True),
        ("x.*", "x", True),
        ("x.*", "y", False),
        ("cross*", "crosstrade", True),
        ("cross*", "cro", False),
        ("*.main", "helio", True),
        ("h*.main", "helio", True),
    ],
)
def test_whether_a_key_could_trade_at_a_provider(trade: str, provider: str, may: bool) -> None:
    assert ApiKey(name="k", digest=hash_key("k"), trade=(trade,)).may_trade_some(provider) is may


def test_a_proof_is_of_one_app_key_connection_and_channel() -> None:
    def proves(app: App, digest: str | None, socket_id: str, channel: str, auth: str | None = None) -> bool:
        return verify_authority(app, auth or made, socket_id, channel, None, lambda name: digest) is not None

    made = key_auth(APP, KEY.name, KEY.digest, "1.2", CHANNEL)
    assert proves(APP, KEY.digest, "1.2", CHANNEL)
    assert not proves(APP, hash_key("other"), "1.2", CHANNEL)
    assert not proves(APP, None, "1.2", CHANNEL)
    assert not proves(evolve(APP, key="another"), KEY.digest, "1.2", CHANNEL)
    assert not proves(evolve(APP, secrets=("another",)), KEY.digest, "1.2", CHANNEL)
    assert not proves(APP, KEY.digest, "1.3", CHANNEL)
    assert not proves(APP, KEY.digest, "1.2", "private-account.x.A")
    assert not proves(APP, KEY.digest, "1.2", CHANNEL, f"key@{KEY.name}:é")
    # Neither half makes it: the app's server has the secret, the key's holder its digest.
    for secret in (APP.secret, KEY.digest, hash_key("other")):
        assert not proves(APP, KEY.digest, "1.2", CHANNEL, f"key@{KEY.name}:{sign(secret, f'1.2:{CHANNEL}')}")
