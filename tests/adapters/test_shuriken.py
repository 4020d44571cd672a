"""Shuriken: streams to channels to events, the bootstrap it all hangs on, and the provider's own SDK against the simulator."""

import json
import subprocess
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio

from relay.adapter import (
    Ack,
    Alive,
    Answer,
    Backoff,
    CloseMeaning,
    Context,
    Fetch,
    Learned,
    Nack,
    Ping,
    Ready,
    Redial,
    Send,
    Subscribe,
    Unknown,
    Unsubscribe,
    Waits,
    dumps,
    loads,
)
from relay.model.channels import Topic
from relay.model.enums import ConnectionEvent, Side
from relay.model.events import Connection, Error, Gap, Notification, ProviderSignal, PublicTrade, Reference
from relay.provider.http import HttpClient
from relay.provider.templates import authenticated, dial_target
from relay.pusher import ClientConnection, Reconnect, reconnect_action
from relay.testing import conformance
from relay.testing.evidence import lost
from relay.testing.recording import read_recording
from relay.testing.simulator import Drop
from relay_shuriken.adapter import CLOSES, Shuriken
from relay_shuriken.chain import BASE, BONK, EVM_WALLET, FEED, PROFILE, SOL, USER, WALLET, WETH
from relay_shuriken.channels import LEFT, Authorize, Channels, Resolve
from relay_shuriken.payloads import tokens_swapped
from relay_shuriken.simulator import KEY, STREAMS, ShurikenSimulator, channel_of
from relay_shuriken.streams import Want, canonical, wants
from support import relayed as support_relayed
from support.deadlines import WITHIN
from support.dialling import close_code, dialled
from support.running import running_relay
from support.shuriken_session import ACCOUNT, EVM, GLOBAL, OPTIONS, TOPICS, Session, new_adapter, record, resolved
from support.tools import NODE_DIR, missing, node

FIXTURE = Path(__file__).parents[1] / "fixtures" / "shuriken.jsonl"
SWAPS = Topic(kind="public_trade", symbol=BONK)
#: A token's quantity is an amount in smallest units with the point put in its place: those digits stand in no message.
LOOSE = ("decimals",)

test_shuriken = conformance.tests(Shuriken, resolved(read_recording(FIXTURE)), options=OPTIONS, loose=LOOSE)


def of_fixture():
    return conformance.subject(Shuriken, resolved(read_recording(FIXTURE)), options=OPTIONS, loose=LOOSE)


def of(items, kind):
    return [item for item in items if isinstance(item, kind)]


# --- the fixture -----------------------------------------------------------------------------------------------------


async def test_the_fixture_is_what_the_simulator_says():
    assert tuple(await record()) == read_recording(FIXTURE).records


def test_nothing_a_stream_says_is_lost():
    """Only members of the Pusher protocol are left out: names of messages and channels, the connection's id, our membership."""
    places = {place for place in lost(of_fixture()) if not place.endswith((".event", ".channel"))}
    presence = "pusher_internal:subscription_succeeded.data.presence."
    hello = "pusher:connection_established.data."
    assert places == {f"{hello}activity_timeout", f"{hello}socket_id", f"{presence}count", f"{presence}ids[0]"}


@pytest.mark.parametrize(
    ("session", "waits"),
    [
        ({"recommendedReconnectBackoffMs": [5000, 7500]}, [Waits((5.0, 7.5))]),
        ({"recommendedReconnectBackoffMs": ["soon"]}, []),
        ({}, []),
        (None, []),
    ],
)
def test_the_recommended_waits_are_taken_over(session, waits):
    adapter = new_adapter()
    (fetch,) = adapter.prepare()
    items = answered(adapter, fetch, "global", session=session)
    assert [item for item in items if isinstance(item, Waits)] == waits


# --- streams and topics ----------------------------------------------------------------------------------------------


def test_the_topics_are_all_21_streams_each_once():
    asked = [want for topic in TOPICS for want in wants(topic, topic.symbol or "", [PROFILE], [FEED])]
    assert {want.stream for want in asked} == set(STREAMS)
    assert len(asked) == len(set(asked)) == len(STREAMS) == 21
    assert all(tuple(name for name, _ in want.filter) == STREAMS[want.stream] for want in asked)


@pytest.mark.parametrize(
    ("kind", "symbol"),
    [
        ("public_trade", WETH),
        ("public_trade", f"base:{WETH}"),
        ("reference", f"wallet:{WALLET}"),
        ("signal", f"8453:{BONK}"),
    ],
)
def test_a_symbol_that_no_stream_has_is_refused_with_how_it_is_written(kind, symbol):
    with pytest.raises(ValueError, match="a token is its mint, or CHAIN_ID:0xADDRESS"):
        wants(Topic(kind=kind, symbol=symbol), symbol)


@pytest.mark.parametrize("feed", ["Global", "Personal", "Profile", "Named"])
def test_both_spellings_of_a_feed_are_one_stream(feed):
    assert (
        canonical(f"alpha.signalFeed.{feed.lower()}")
        == canonical(f"alpha.signalFeed{feed}")
        == f"alpha.signalFeed{feed}"
    )


SVM_SWAP = {"tokenMint": BONK, "signature": "s1", "slot": 1, "blockTime": 1700000000, "isBuy": True, "sizeSol": "1.5", "sizeUsd": "200",
            "priceUsd": "0.1", "priceSol": "0.001", "network": "sol"}  # fmt: skip
EVM_SWAP = {"tokenAddress": WETH, "txHash": "0xab", "chainId": BASE, "blockNumber": 2, "timestamp": 1700000000, "isBuy": False,
            "amountNative": "1", "amountUsd": "3400.50", "priceNative": "1", "priceUsd": "3400.50", "tokenDecimals": 18,
            "tokenInAddress": WETH, "tokenOutAddress": "0xc", "amountIn": "1000000000000000000", "amountOut": "3400500000",
            "network": "base"}  # fmt: skip
SVM_BALANCE = {
    "mint": BONK,
    "owner": WALLET,
    "slot": 1,
    "blockTime": 1700000000,
    "decimals": 5,
    "preBalance": 1,
    "postBalance": 2,
    "network": "sol",
}
EVM_BALANCE = {
    "tokenAddress": WETH,
    "owner": EVM_WALLET,
    "chainId": BASE,
    "blockNumber": 2,
    "blockTime": 1700000000,
    "balance": "7",
    "network": "base",
}
CURVE = {"tokenAddress": "T", "curveAddress": "C", "curveDexType": "pumpfun", "signature": "s", "slot": 1, "blockTime": 1700000000, "blockHeight": 1,
         "blockHash": "h", "network": "sol"}  # fmt: skip
STATS = {"tokenAddress": BONK, "network": "sol", "blockIndex": 9}
#: What the payload of each stream becomes: kind, symbol (or the notification's words).
PAYLOADS = {
    "svm.token.swaps": (SVM_SWAP | {"amountIn": 1_500_000_000, "inputDecimals": 9, "amountOut": 200_000_000, "outputDecimals": 5}, PublicTrade, BONK),
    "evm.token.swaps": (EVM_SWAP, PublicTrade, EVM),
    "svm.token.poolInfo": ({"tokenAddress": BONK, "priceUsd": "0.1", "timestampUpdatedMs": 1700000000000}, Reference, BONK),
    "evm.token.poolInfo": ({"tokenAddress": WETH, "chainId": BASE, "timestampUpdatedMs": 1700000000000}, Reference, EVM),
    "svm.token.distributionStats": (STATS, Reference, BONK),
    "svm.token.holderStats": (STATS | {"stats": {"holders": 1.50}}, Reference, BONK),
    "svm.token.balances": (SVM_BALANCE, ProviderSignal, BONK),
    "evm.token.balances": (EVM_BALANCE, ProviderSignal, EVM),
    "svm.wallet.nativeBalance": ({"owner": WALLET, "blockTime": 1700000000, "preBalance": 2}, ProviderSignal, f"wallet:{WALLET}"),
    "svm.wallet.tokenBalances": (SVM_BALANCE, ProviderSignal, f"wallet:{WALLET}"),
    "evm.wallet.nativeBalance": ({"owner": EVM_WALLET, "chainId": BASE, "blockTime": 1700000000}, ProviderSignal, f"wallet:{EVM_WALLET}"),
    "evm.wallet.tokenBalances": (EVM_BALANCE, ProviderSignal, f"wallet:{EVM_WALLET}"),
    "svm.bondingCurve.creations": (CURVE | {"creator": WALLET}, ProviderSignal, "creations"),
    "svm.bondingCurve.graduations": (CURVE | {"destPoolAddress": "P"}, ProviderSignal, "graduations"),
    "alpha.signalFeedGlobal": ({"type": "globalSignalFeedUpdate", "tokenAddress": BONK, "network": "sol"}, ProviderSignal, "global"),
    "alpha.signalFeedPersonal": ({"type": "personalSignalFeedUpdate", "tokenAddress": BONK}, Notification, "personalSignalFeedUpdate"),
    "alpha.signalFeedProfile": ({"type": "profileSignalFeedUpdate", "profileId": PROFILE}, Notification, "profileSignalFeedUpdate"),
    "alpha.signalFeedNamed": ({"type": "feedMessage", "message": {"data": {"content": "gm"}}}, Notification, "gm"),
    "alpha.personal": ({"platform": "discord", "data": {"messageId": "m", "content": "gm", "timestamp": 1700000000000}}, Notification, "gm"),
    "portfolio.notifications": ({"type": "swap", "taskId": "t", "userId": USER, "chainId": 1}, Notification, "swap"),
    "automation.updates": ({"type": "taskUpdate", "task_id": "t", "user_id": USER}, Notification, "taskUpdate"),
}  # fmt: skip


def heard(stream, payload, *, adapter=None, text=True):
    adapter = adapter or new_adapter()
    adapter.channels.streams["c"] = Want(stream)
    return list(adapter.decode(dumps({"event": "update", "channel": "c", "data": dumps(payload) if text else payload})))


@pytest.mark.parametrize("text", [True, False], ids=["data as text", "data as an object"])
@pytest.mark.parametrize("stream", STREAMS)
def test_every_stream_becomes_an_event_and_its_payload_stays_whole(stream, text):
    payload, kind, about = PAYLOADS[stream]
    (event,) = heard(stream, payload, text=text)
    assert type(event) is kind
    assert (event.message if kind is Notification else event.symbol) == about
    if kind is PublicTrade:
        assert event.native_symbol == about
    else:
        assert event.data == loads(dumps(payload))
        assert (event.title if kind is Notification else event.name) == stream
    moments = {"blockTime", "timestampUpdatedMs"} & payload.keys()
    if moments:
        assert event.timestamp.startswith("2023-11-14T22:13:20")


def test_what_is_authorized_for_one_user_is_never_on_a_public_symbol():
    private = {stream for stream, (_, kind, _) in PAYLOADS.items() if kind is Notification}
    assert private == {stream for stream in STREAMS if channel_of(stream, ("x", "y")).startswith("presence-")}


def test_a_payload_that_does_not_say_whom_it_is_about_is_not_guessed():
    with pytest.raises(ValueError, match="does not say what it is about"):
        heard("svm.token.poolInfo", {"priceUsd": "1"})
    with pytest.raises(ValueError, match="does not say what it is about"):
        heard("evm.token.poolInfo", {"tokenAddress": WETH, "chainId": True})


@pytest.mark.parametrize("moment", ["soon", None, True, -1, 0, "1700000000"])
def test_a_time_that_is_none_costs_the_time_and_not_the_message(moment):
    (event,) = heard("svm.bondingCurve.creations", CURVE | {"blockTime": moment})
    assert event.timestamp is None
    assert event.data["blockTime"] == moment


def test_an_address_is_answered_in_the_letters_it_was_asked_in():
    adapter, asked = new_adapter(), EVM_SWAP["tokenAddress"].replace("0x42", "0x4A")
    list(adapter.encode(Subscribe((Topic(kind="public_trade", symbol=f"{BASE}:{asked}"),))))
    (trade,) = heard("evm.token.swaps", EVM_SWAP | {"tokenAddress": asked.lower()}, adapter=adapter)
    assert trade.symbol == f"{BASE}:{asked}"


def test_configured_symbols_are_used_both_ways():
    adapter = new_adapter()
    adapter.symbols.add(BONK, "BONK/USD")
    (fetch,) = adapter.encode(Subscribe((Topic(kind="public_trade", symbol="BONK/USD"),)))
    assert fetch.json["subscriptions"] == [{"stream": "svm.token.swaps", "filter": {"tokenAddress": BONK}}]
    (trade,) = heard("svm.token.swaps", PAYLOADS["svm.token.swaps"][0], adapter=adapter)
    assert (trade.symbol, trade.native_symbol) == ("BONK/USD", BONK)


# --- how many tokens were swapped ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "quantity"),
    [
        ({"amountOut": 200_012_345, "outputDecimals": 5}, "2000.12345"),
        ({"amountOut": "2000.5", "outputDecimals": 5}, "2000.5"),
        ({"amountOut": 2000, "outputDecimals": 5}, "2000"),
        ({"isBuy": False, "amountIn": 200_000_000, "inputDecimals": 5, "amountOut": 1, "outputDecimals": 9}, "2000.00000"),
        ({"amountOut": 2000}, "2000"),
        ({"amountOut": 200_000_000}, None),
        ({"amountOut": 2_000_000_000, "outputDecimals": 5}, None),
        ({"amountIn": 1_500_000_000, "inputDecimals": 9}, None),
        ({"amountOut": 200_000_000, "outputDecimals": 5, "sizeUsd": "0"}, None),
        ({"amountOut": 200_000_000, "outputDecimals": -5}, None),
        ({}, None),
    ],
)  # fmt: skip
def test_an_amount_is_read_in_the_unit_that_is_worth_what_was_paid(changes, quantity):
    assert tokens_swapped(SVM_SWAP | changes) == quantity


def test_every_digit_of_a_large_amount_is_kept():
    raw = "123456789012345678901234567"
    swap = EVM_SWAP | {"amountIn": raw, "amountUsd": "419817000000", "priceUsd": "3400.50"}
    assert tokens_swapped(swap) == "123456789.012345678901234567"


def test_a_swap_is_a_trade_of_the_taker_s_side_in_usd():
    (trade,) = heard("evm.token.swaps", EVM_SWAP)
    rest = {name: value for name, value in EVM_SWAP.items() if name not in ("txHash", "priceUsd", "isBuy")}
    assert trade == PublicTrade(symbol=EVM, native_symbol=EVM, id="0xab", price="3400.50", quantity="1.000000000000000000", side=Side.SELL,
                                time="2023-11-14T22:13:20Z", data=rest)  # fmt: skip


def test_a_swap_without_amounts_is_a_signal_instead_of_a_trade_of_an_invented_size():
    (signal,) = heard("svm.token.swaps", SVM_SWAP)
    assert (type(signal), signal.symbol, signal.data) == (ProviderSignal, BONK, SVM_SWAP)


# --- the Pusher protocol ---------------------------------------------------------------------------------------------


def test_the_protocol_is_answered():
    adapter = new_adapter()
    assert list(
        adapter.decode(
            '{"event":"pusher:connection_established","data":"{\\"socket_id\\":\\"1.2\\",\\"activity_timeout\\":30}"}'
        )
    ) == [Ready()]
    assert list(adapter.decode('{"event":"pusher:ping","data":{}}')) == [Send('{"event":"pusher:pong","data":{}}')]
    assert list(adapter.decode('{"event":"pusher:pong","data":{}}')) == [Alive()]
    assert list(adapter.encode(Ping())) == ['{"event":"pusher:ping","data":{}}']


@pytest.mark.parametrize("code", [4000, 4001, 4003, 4009, 4100, 4199, 4200, 4299])
def test_close_codes_mean_what_the_protocol_says(code):
    refused = reconnect_action(code) in (Reconnect.NEVER, Reconnect.OVER_TLS)
    assert CLOSES[code] is (CloseMeaning.REFUSED if refused else CloseMeaning.RETRY)
    error, redial = new_adapter().decode(dumps({"event": "pusher:error", "data": {"code": code, "message": "no"}}))
    assert (error, redial) == (Error(code=str(code), message="no"), Redial(f"{code}: no", CLOSES[code]))


@pytest.mark.parametrize("code", [4301, None, 1, "4001"])
def test_other_errors_leave_the_connection_be(code):
    (error,) = new_adapter().decode(dumps({"event": "pusher:error", "data": {"code": code, "message": "no"}}))
    assert error.message == "no"


@pytest.mark.parametrize("event", ["client-update", "pusher:new_thing", "pusher_internal:new_thing"])
def test_what_shuriken_did_not_say_is_no_event_of_a_stream(event):
    adapter = new_adapter()
    adapter.channels.streams["c"] = Want("portfolio.notifications")
    text = dumps({"event": event, "channel": "c", "data": '{"type":"swap"}'})
    assert list(adapter.decode(text)) == [Unknown(text)]


def test_a_channel_nobody_named_is_unknown():
    (unknown,) = new_adapter().decode('{"event":"update","channel":"x","data":"{}"}')
    assert isinstance(unknown, Unknown)


# --- the bootstrap ---------------------------------------------------------------------------------------------------


def answered(adapter, fetch, *channels, status=200, **changes):
    """Return the items of an answer that names these channels in the order they were asked for."""
    asked = fetch.json["subscriptions"]
    entries = [{"stream": each["stream"], "channel": channel} for each, channel in zip(asked, channels, strict=False)]
    connection = {
        "appKey": "k",
        "wsHost": "ws.test.shuriken.trade",
        "wsPort": 443,
        "forceTls": True,
        "authEndpoint": "/api/v2/ws/auth",
    }
    body = {
        "connection": connection,
        "session": {"recommendedReconnectBackoffMs": [1000, 2000, 4000]},
        "subscriptions": entries,
        **changes,
    }
    return list(adapter.fetched(fetch.tag, Answer(status=status, text=dumps(body))))


def established(adapter):
    (fetch,) = adapter.prepare()
    answered(adapter, fetch, "global")
    list(
        adapter.decode(
            '{"event":"pusher:connection_established","data":"{\\"socket_id\\":\\"123.456\\",\\"activity_timeout\\":30}"}'
        )
    )
    return adapter


def test_the_first_bootstrap_asks_as_the_sdks_do():
    adapter = new_adapter()
    (fetch,) = adapter.prepare()
    fetch = authenticated(fetch, Shuriken.session, adapter.context)
    assert (fetch.method, fetch.url, fetch.headers) == (
        "POST",
        "/api/v2/ws/session",
        {"authorization": f"Bearer {KEY}"},
    )
    assert fetch.json == {"subscriptions": [{"stream": "alpha.signalFeedGlobal", "filter": {}}]}


@pytest.mark.parametrize(
    "wrap", [lambda body: body, lambda body: {"data": body, "requestId": "r"}], ids=["bare", "in data"]
)
@pytest.mark.parametrize(
    ("tls", "url"),
    [({}, "wss://h:443/app/k"), ({"forceTls": True}, "wss://h:443/app/k"), ({"forceTls": False}, "ws://h:443/app/k")],
)
def test_its_answer_says_where_to_dial(wrap, tls, url):
    adapter = new_adapter()
    (fetch,) = adapter.prepare()
    body = wrap({"connection": {"appKey": "k", "wsHost": "h", "wsPort": 443, **tls}, "subscriptions": []})
    (learned,) = adapter.fetched(fetch.tag, Answer(status=200, text=dumps(body)))
    assert isinstance(learned, Learned)
    adapter.context.learned.update(learned.values)
    assert dial_target(Shuriken.session, adapter.context) == (
        f"{url}?protocol=7&client=tickrelay&version=1.0&flash=false",
        {},
    )


def test_the_global_feed_is_joined_without_another_bootstrap():
    assert list(established(new_adapter()).encode(Subscribe((GLOBAL,)))) == [
        '{"event":"pusher:subscribe","data":{"channel":"global"}}'
    ]


def test_a_new_topic_is_bootstrapped_with_what_is_there_already_and_then_joined():
    adapter = established(new_adapter())
    list(adapter.encode(Subscribe((GLOBAL,))))
    (fetch,) = adapter.encode(Subscribe((SWAPS,)))
    assert fetch.json["subscriptions"] == [
        {"stream": "alpha.signalFeedGlobal", "filter": {}},
        {"stream": "svm.token.swaps", "filter": {"tokenAddress": BONK}},
    ]
    assert answered(adapter, fetch, "global", "swaps") == [
        Send('{"event":"pusher:subscribe","data":{"channel":"swaps"}}')
    ]
    assert list(adapter.decode('{"event":"pusher_internal:subscription_succeeded","channel":"swaps"}')) == [
        Ack((SWAPS,))
    ]
    assert list(adapter.encode(Subscribe((SWAPS,)))) == []
    assert list(adapter.encode(Unsubscribe((SWAPS,)))) == ['{"event":"pusher:unsubscribe","data":{"channel":"swaps"}}']
    assert list(adapter.encode(Subscribe((SWAPS,)))) == ['{"event":"pusher:subscribe","data":{"channel":"swaps"}}']


def test_two_tokens_of_one_stream_are_told_apart_by_order_and_their_events_by_themselves():
    adapter = established(new_adapter())
    other = Topic(kind="public_trade", symbol=SOL)
    (fetch,) = adapter.encode(Subscribe((SWAPS, other)))
    answered(adapter, fetch, "one", "two")
    assert list(adapter.decode('{"event":"pusher_internal:subscription_succeeded","channel":"two"}')) == [Ack((other,))]
    (trade,) = adapter.decode(dumps({"event": "update", "channel": "two", "data": PAYLOADS["svm.token.swaps"][0]}))
    assert trade.symbol == BONK


def test_streams_that_are_named_in_another_order_are_found_without_a_search(monkeypatch):
    """Twice the streams cost twice the comparisons, not four times."""
    compared = 0
    equal = Want.__eq__

    def counted(self, other):
        nonlocal compared
        compared += 1
        return equal(self, other)

    monkeypatch.setattr(Want, "__eq__", counted)
    costs = []
    for many in (250, 500):
        channels = Channels(ClientConnection("k", 0.0))
        wants = {Want(f"s{number}"): Topic(kind="signal", symbol=f"{number}") for number in range(many)}
        (fetch,) = channels.want(wants)
        entries = [{"stream": want.stream, "channel": want.stream} for want in reversed(wants)]
        body = {"connection": {"appKey": "k", "wsHost": "h", "wsPort": 1}, "subscriptions": entries}
        compared = 0
        assert len(list(channels.answered(fetch.tag, Answer(status=200, text=dumps(body))))) == 1 + many
        costs.append(compared)
    assert costs[1] <= 2 * costs[0] + 10


class Unsearched(dict):
    """A dictionary that is not to be walked through."""

    def walked(self):
        raise AssertionError("a search through all streams that are wanted")

    __iter__ = items = keys = values = walked


@pytest.mark.parametrize("ends", ["left", "refused"])
def test_streams_end_without_a_search_through_those_that_stay(ends):
    """Anybody may make a stream come and go: what that costs must not grow with the streams that others hold."""
    channels = Channels(ClientConnection("k", 0.0))
    kept = {Want("kept", (("tokenAddress", f"0x{n}"),)): Topic(kind="signal", symbol=f"0x{n}") for n in range(3)}
    gone = {Want("gone", (("tokenAddress", f"0x{n}"),)): Topic(kind="trade", symbol=f"0x{n}") for n in range(LEFT + 3)}
    list(channels.want(kept | gone))
    channels._wanted = Unsearched(channels._wanted)
    for want, topic in gone.items():
        if ends == "left":
            assert list(channels.leave([topic])) == []
        else:
            assert list(channels.refused(f"no channel of {topic.symbol}", "no")) == [
                Error(code="stream_refused", message=f"no channel of {topic.symbol}: no")
            ]
            channels.streams["one"] = want
            assert list(channels.refused("one", "no")) == [Nack((topic,), "gone: no")]
    assert dict.keys(channels._wanted) == kept.keys()
    assert set(channels.spelled) >= {"0x0", "0x1", "0x2"}, "somebody holds these"
    assert len(channels.spelled) <= LEFT + 3


def test_a_stream_is_found_under_either_spelling_of_its_name():
    adapter = established(new_adapter())
    (fetch,) = adapter.encode(Subscribe((ACCOUNT,)))
    spelled = [{"stream": each["stream"].replace("FeedP", "Feed.p").replace("FeedN", "Feed.n"), "channel": f"presence-{n}"}
               for n, each in enumerate(fetch.json["subscriptions"])]  # fmt: skip
    assert "alpha.signalFeed.named" in [each["stream"] for each in spelled]
    authorizations = answered(adapter, fetch, subscriptions=spelled)
    assert [item.form["channel_name"] for item in authorizations] == [each["channel"] for each in spelled]


@pytest.mark.parametrize("endpoint", ["/api/v2/ws/auth", "https://api.test.shuriken.trade/api/v2/ws/auth"])
def test_a_presence_channel_is_authorized_by_a_form_and_then_joined(endpoint):
    adapter = new_adapter(profiles="", feeds="")
    (fetch,) = adapter.prepare()
    connection = {"appKey": "k", "wsHost": "h", "wsPort": 443, "authEndpoint": endpoint}
    answered(adapter, fetch, "global", connection=connection)
    list(
        adapter.decode('{"event":"pusher:connection_established","data":{"socket_id":"123.456","activity_timeout":30}}')
    )
    (fetch,) = adapter.encode(Subscribe((ACCOUNT,)))
    first, *rest = answered(adapter, fetch, *(f"presence-{n}" for n in range(4)))
    assert len(rest) == 3
    assert list(adapter.encode(Subscribe((ACCOUNT,)))) == [first, *rest]  # where the answers failed to come
    assert (first.method, first.url, first.json) == ("POST", endpoint, None)
    assert first.form == {"socket_id": "123.456", "channel_name": "presence-0"}
    given = Answer(status=200, text='{"auth":"k:ab","channel_data":"{\\"user_id\\":\\"u1\\"}"}')
    (send,) = adapter.fetched(first.tag, given)
    assert loads(send.text)["data"] == {"channel": "presence-0", "auth": "k:ab", "channel_data": '{"user_id":"u1"}'}
    list(adapter.encode(Unsubscribe((ACCOUNT,))))
    assert list(adapter.fetched(first.tag, given)) == []


def test_what_belongs_to_a_topic_that_was_left_meanwhile_is_not_joined():
    adapter = established(new_adapter())
    (fetch,) = adapter.encode(Subscribe((SWAPS,)))
    list(adapter.encode(Unsubscribe((SWAPS,))))
    assert answered(adapter, fetch, "swaps") == []
    assert list(adapter.decode('{"event":"pusher_internal:subscription_succeeded","channel":"swaps"}')) == []


# --- refusals --------------------------------------------------------------------------------------------------------

BAD_REQUEST = Answer(
    status=400, text='{"error":{"code":"INVALID_PARAMS","message":"no such token","details":null},"requestId":"r"}'
)


def test_one_refused_filter_costs_only_its_own_topic():
    adapter = established(new_adapter())
    bad = Topic(kind="public_trade", symbol="nosuchtoken")
    (fetch,) = adapter.encode(Subscribe((SWAPS, bad)))
    good, refused = adapter.fetched(fetch.tag, BAD_REQUEST)
    assert [len(each.json["subscriptions"]) for each in (good, refused)] == [1, 1]
    assert len(answered(adapter, good, "swaps")) == 1
    nack = Nack((bad,), "svm.token.swaps: HTTP status 400: INVALID_PARAMS, no such token")
    assert list(adapter.fetched(refused.tag, BAD_REQUEST)) == [nack]


def test_what_is_refused_together_with_repeated_streams_is_asked_for_alone():
    adapter = established(new_adapter())
    list(adapter.encode(Subscribe((GLOBAL,))))
    (fetch,) = adapter.encode(Subscribe((SWAPS,)))
    (alone,) = adapter.fetched(fetch.tag, BAD_REQUEST)
    assert alone.tag == Resolve((Want("svm.token.swaps", (("tokenAddress", BONK),)),), alone.tag.new)


def test_an_account_stream_that_is_refused_leaves_the_others():
    adapter = established(new_adapter(profiles="", feeds=""))
    (fetch,) = adapter.encode(Subscribe((ACCOUNT,)))
    asked = answered(adapter, fetch, *(f"presence-{n}" for n in range(4)))
    forbidden = Answer(status=403, text="no")
    outcomes = [list(adapter.fetched(each.tag, forbidden)) for each in asked]
    assert [[type(item) for item in items] for items in outcomes] == [[Error], [Error], [Error], [Nack]]
    assert outcomes[3] == [Nack((ACCOUNT,), "automation.updates: HTTP status 403: no")]


@pytest.mark.parametrize("status", [0, 408, 429, 500, 503])
def test_no_answer_refuses_nothing(status):
    adapter = established(new_adapter())
    (fetch,) = adapter.encode(Subscribe((SWAPS,)))
    (error,) = adapter.fetched(fetch.tag, Answer(status=status, text="x"))
    assert error.code == "no_answer"
    assert [type(each) for each in adapter.encode(Subscribe((SWAPS,)))] == [Fetch]


def test_a_key_that_holds_no_more_refuses_all_at_once():
    adapter = established(new_adapter())
    (fetch,) = adapter.encode(Subscribe((SWAPS, Topic(kind="public_trade", symbol=SOL))))
    assert [type(item) for item in adapter.fetched(fetch.tag, Answer(status=401, text=""))] == [Nack, Nack]


def test_a_stream_without_a_channel_is_refused_and_not_asked_for_for_ever():
    adapter = established(new_adapter())
    (fetch,) = adapter.encode(Subscribe((SWAPS,)))
    unknown, nack = answered(adapter, fetch, subscriptions=[{"stream": "svm.token.swaps"}])
    assert isinstance(unknown, Unknown)
    assert nack == Nack((SWAPS,), "svm.token.swaps: the bootstrap names no channel for it")


def test_a_channel_the_pusher_server_refuses():
    adapter = established(new_adapter())
    (fetch,) = adapter.encode(Subscribe((SWAPS,)))
    answered(adapter, fetch, "swaps")
    text = '{"event":"pusher:subscription_error","channel":"swaps","data":{"type":"LimitReached","error":"too long","status":4009}}'
    assert list(adapter.decode(text)) == [Nack((SWAPS,), "svm.token.swaps: LimitReached: too long (4009)")]


def test_an_authorization_without_auth_is_a_refusal():
    adapter = established(new_adapter())
    list(adapter.channels.want({Want("alpha.personal"): ACCOUNT}))
    (nack,) = adapter.fetched(Authorize(Want("alpha.personal")), Answer(status=200, text="{}"))
    assert nack == Nack((ACCOUNT,), "alpha.personal: the authorization has no auth")


@pytest.mark.parametrize("answered_first", [True, False])
def test_what_subscribers_name_is_forgotten_after_a_while(answered_first):
    adapter = established(new_adapter())
    held = Topic(kind="signal", symbol="8453:0xAbCdEf")
    (fetch,) = adapter.encode(Subscribe((held,)))
    answered(adapter, fetch, "held")
    for n in range(2 * LEFT):
        topic = Topic(kind="public_trade", symbol=f"1:0x{n}A")
        (fetch,) = adapter.encode(Subscribe((topic,)))
        if answered_first:
            answered(adapter, fetch, "held", f"c{n}")
        list(adapter.encode(Unsubscribe((topic,))))
        if not answered_first:
            answered(adapter, fetch, "held", f"c{n}")
    channels = adapter.channels
    sizes = {len(channels._left), len(channels.streams) - 1, len(channels._resolved) - 1, len(channels.spelled) - 1}
    assert sizes == {LEFT}
    assert channels.spelled["8453:0xabcdef"] == "8453:0xAbCdEf"
    assert channels.streams["held"] == Want("evm.token.balances", (("chainId", "8453"), ("tokenAddress", "0xAbCdEf")))
    assert list(adapter.encode(Subscribe((topic,)))) == ['{"event":"pusher:subscribe","data":{"channel":"c1999"}}']


# --- a session without sockets ---------------------------------------------------------------------------------------


async def test_every_stream_flows():
    session = await Session().open()
    items = await session.say(Subscribe(TOPICS))
    assert {topic for ack in of(items, Ack) if ack.done for topic in ack.topics} == set(TOPICS)
    assert [fetch.url for fetch in session.asked].count("http://127.0.0.1:6010/api/v2/ws/auth") == 6
    items = await session.tick(20)
    named = {getattr(item, "name", None) or getattr(item, "title", None) for item in items}
    assert {"svm.token.swaps", "evm.token.swaps"} | named == set(STREAMS) | {None}
    trades = of(items, PublicTrade)
    assert {trade.symbol for trade in trades} == {BONK, EVM}
    assert not of(items, Unknown)


async def test_the_automation_s_purchase_is_seen_on_every_stream_it_concerns():
    session = await Session().open()
    await session.say(Subscribe(TOPICS))
    items = await session.tick(6)
    bought = [trade for trade in of(items, PublicTrade) if trade.quantity == "2500000.00000"]
    assert len(bought) == 1
    told = [
        notification.data for notification in of(items, Notification) if notification.data.get("taskId") == "task_6"
    ]
    assert [data["type"] for data in told] == ["automation", "swap", "swap"]
    (wallet,) = [signal.data for signal in of(items, ProviderSignal) if signal.name == "svm.wallet.tokenBalances"]
    assert wallet["postBalance"] - wallet["preBalance"] == 250_000_000_000


async def test_a_seed_is_a_session():
    one, two, other = [await Session(seed=seed).open() for seed in (1, 1, 2)]
    for session in (one, two, other):
        await session.say(Subscribe(TOPICS))
        await session.tick(8)
    assert one.records == two.records != other.records


async def test_the_server_asks_who_fell_silent_and_ends_who_does_not_answer():
    session = await Session(activity_timeout=30).open()
    assert await session.tick(seconds=31) == [Send('{"event":"pusher:pong","data":{}}')]
    session.now_ns += 61 * 10**9
    session.simulator.tick()
    assert session.line.close_code == 4201


# --- the simulator over real sockets, by a client that does what the page says ---------------------------------------


@asynccontextmanager
async def client(simulator, key=KEY):
    async with (
        simulator.serve() as at,
        httpx.AsyncClient(base_url=at.http, headers={"authorization": f"Bearer {key}"}) as http,
    ):
        yield at, http


async def bootstrapped(http, *streams):
    asked = [{"stream": stream, "filter": filters} for stream, filters in streams]
    return (await http.post("/api/v2/ws/session", json={"subscriptions": asked})).json()


def url_of(session, key=None):
    connection = session["connection"]
    scheme = "wss" if connection["forceTls"] else "ws"
    return f"{scheme}://{connection['wsHost']}:{connection['wsPort']}/app/{key or connection['appKey']}?protocol=7&client=js&version=8.6.0&flash=false"


async def message(socket):
    with trio.fail_after(WITHIN):
        return loads(await socket.get_message())


async def test_a_client_that_does_what_the_page_says():
    async with client(ShurikenSimulator(interval=0.01)) as (_, http):
        swaps = ("svm.token.swaps", {"tokenAddress": BONK})
        session = await bootstrapped(http, swaps, ("portfolio.notifications", {}))
        public, presence = session["subscriptions"]
        assert (public["visibility"], presence["visibility"], public["event"]) == ("public", "presence", "update")
        async with dialled(url_of(session)) as socket:
            hello = await message(socket)
            assert hello["event"] == "pusher:connection_established"
            socket_id = loads(hello["data"])["socket_id"]
            await socket.send_message(
                dumps({"event": "pusher:subscribe", "data": {"auth": "", "channel": public["channel"]}})
            )
            assert await message(socket) == {
                "event": "pusher_internal:subscription_succeeded",
                "channel": public["channel"],
            }
            update = await message(socket)
            assert (update["event"], update["channel"], loads(update["data"])["tokenMint"]) == (
                "update",
                public["channel"],
                BONK,
            )
            form = {"socket_id": socket_id, "channel_name": presence["channel"]}
            auth = (await http.post(session["connection"]["authEndpoint"], data=form)).json()
            await socket.send_message(
                dumps({"event": "pusher:subscribe", "data": {**auth, "channel": presence["channel"]}})
            )
            while (update := await message(socket))["channel"] == public["channel"]:
                pass
            assert loads(update["data"])["presence"] == {"ids": [USER], "hash": {USER: {}}, "count": 1}


async def test_requests_are_refused_as_documented():
    async with client(ShurikenSimulator(interval=0, forbidden=("alpha.personal",))) as (_, http):

        async def refused(*asked, **options):
            answer = await http.post(*asked, **options)
            assert answer.json()["requestId"].startswith("req_")
            return answer.status_code, answer.json()["error"]["code"]

        session, auth = "/api/v2/ws/session", "/api/v2/ws/auth"
        assert await refused(session, headers={"authorization": "Bearer sk_wrong"}) == (401, "UNAUTHORIZED")
        assert await refused("/api/v2/nowhere") == (404, "NOT_FOUND")
        assert await refused(session, content="{") == (400, "INVALID_PARAMS")
        for asked in (
            {"stream": "no.such"},
            {"stream": "svm.token.swaps", "filter": {}},
            {"stream": "svm.token.swaps", "filter": {"tokenAddress": "a b"}},
        ):
            assert await refused(session, json={"subscriptions": [asked]}) == (400, "INVALID_PARAMS")
        assert await refused(session, json={"subscriptions": [{"stream": "alpha.personal"}]}) == (403, "FORBIDDEN")
        assert await refused(auth, json={"socket_id": "1.2", "channel_name": "presence-alpha-u1"}) == (
            400,
            "INVALID_PARAMS",
        )
        form, as_json = b"socket_id=1.2&channel_name=presence-alpha-u1", {"content-type": "application/json"}
        assert await refused(auth, content=form, headers=as_json) == (400, "INVALID_PARAMS")
        assert await refused(auth, data={"socket_id": "1.2"}) == (400, "INVALID_PARAMS")
        assert await refused(auth, data={"socket_id": "1.2", "channel_name": "presence-alpha-u2"}) == (403, "FORBIDDEN")


async def test_the_catalog_has_every_stream():
    async with client(ShurikenSimulator(interval=0)) as (_, http):
        streams = (await http.get("/api/v2/ws/streams")).json()["streams"]
        assert {stream["id"]: tuple(field["name"] for field in stream["filters"]) for stream in streams} == STREAMS


async def test_both_spellings_come_back_as_they_were_asked():
    async with client(ShurikenSimulator(interval=0, envelope="data")) as (_, http):
        session = (await bootstrapped(http, ("alpha.signalFeed.global", {}), ("alpha.signalFeedGlobal", {})))["data"]
        one, two = session["subscriptions"]
        assert (one["stream"], two["stream"], one["channel"] == two["channel"]) == (
            "alpha.signalFeed.global",
            "alpha.signalFeedGlobal",
            True,
        )


@pytest.mark.parametrize(
    ("settings", "key", "code"),
    [({}, "wrong", 4001), ({"enabled": False}, None, 4003), ({"max_connections": 0}, None, 4100)],
)
async def test_a_connection_that_is_turned_away_is_told_why(settings, key, code):
    async with client(ShurikenSimulator(interval=0, **settings)) as (_, http):
        async with dialled(url_of(await bootstrapped(http), key)) as socket:
            error = await message(socket)
            assert (error["event"], error["data"]["code"]) == ("pusher:error", code)
            assert await close_code(socket) == code


async def test_what_the_pusher_server_does_not_allow():
    async with client(ShurikenSimulator(interval=0)) as (_, http):
        async with dialled(url_of(await bootstrapped(http))) as socket:
            await message(socket)
            for channel, status in (("presence-alpha-u1", 401), ("x" * 201, 4009)):
                await socket.send_message(
                    dumps({"event": "pusher:subscribe", "data": {"auth": "k:forged", "channel": channel}})
                )
                error = await message(socket)
                assert (error["event"], error["channel"], error["data"]["status"]) == (
                    "pusher:subscription_error",
                    channel,
                    status,
                )
            await socket.send_message('{"event":"client-x","channel":"presence-alpha-u1","data":{}}')
            assert (await message(socket))["data"]["code"] == 4301
            await socket.send_message("{")
            await socket.send_message('{"event":"pusher:ping","data":{}}')
            assert await message(socket) == {"event": "pusher:pong", "data": {}}


# --- the relay's own session with the simulator ----------------------------------------------------------------------


class Relayed(support_relayed.Relayed):
    """The session with Shuriken's simulator, dialling wherever the bootstrap says."""

    def __init__(self, at, http, key=KEY, **session):
        context = Context(
            provider="shuriken", account="main", options={**Shuriken.defaults(), **OPTIONS}, credentials={"key": key}
        )
        super().__init__(Shuriken, context, http, http=at.http, backoff=Backoff(first=0.01, cap=0.01), **session)

    @property
    def refused(self):
        return self.session.status()["topics"]["refused"]


@asynccontextmanager
async def relayed(simulator, *topics, key=KEY, **session):
    async with simulator.serve() as at, HttpClient() as http, trio.open_nursery() as nursery:
        relay = Relayed(at, http, key, **session)
        for topic in topics:
            relay.session.want(topic)
        await nursery.start(relay.session.run)
        yield relay
        relay.session.shutdown()  # and no cancelling: requests under way are given their time to end


async def test_stream_widen_narrow_lose_the_connection_and_come_back():
    simulator = ShurikenSimulator(interval=0.01)
    async with relayed(simulator, SWAPS, ACCOUNT) as relay:
        await relay.until(Connection, event=ConnectionEvent.CONNECTED)
        assert (await relay.until(PublicTrade)).symbol == BONK
        for stream in (
            "automation.updates",
            "portfolio.notifications",
            "alpha.signalFeedNamed",
            "alpha.signalFeedProfile",
        ):
            await relay.until(Notification, title=stream)
        relay.session.want(Topic(kind="public_trade", symbol=EVM))
        assert (await relay.until(PublicTrade, symbol=EVM)).price
        simulator.inject(Drop())
        await relay.until(Connection, event=ConnectionEvent.RECONNECTING)
        await relay.until(Connection, event=ConnectionEvent.CONNECTED)
        assert (await relay.until(Gap)).of in ("public_trade", "account")
        await relay.until(PublicTrade, symbol=EVM)
        await relay.until(Notification, title="automation.updates")
        assert relay.session.status()["topics"]["confirmed"] == 3
        assert relay.session.status()["counters"]["unknown"] == 0


async def test_a_session_that_ends_leaves_its_channels_first():
    simulator = ShurikenSimulator(interval=0.01)
    async with relayed(simulator, SWAPS) as relay:
        await relay.until(PublicTrade)
        (link,) = simulator.links
    assert loads(link.received[-1]) == {"event": "pusher:unsubscribe", "data": {"channel": f"svm.token.swaps.{BONK}"}}


async def test_one_token_that_does_not_exist_costs_only_itself():
    bad = Topic(kind="public_trade", symbol="no such token")
    async with relayed(ShurikenSimulator(interval=0.01), SWAPS, bad) as relay:
        error = await relay.until(Error, code="subscription_refused")
        assert "no such token: svm.token.swaps: HTTP status 400: INVALID_PARAMS" in error.message
        await relay.until(PublicTrade, symbol=BONK)
        assert relay.refused == 1


async def test_one_forbidden_stream_leaves_the_account_its_others():
    async with relayed(ShurikenSimulator(interval=0.01, forbidden=("alpha.personal",)), ACCOUNT) as relay:
        assert "alpha.personal: HTTP status 403: FORBIDDEN" in (await relay.until(Error)).message
        await relay.until(Notification, title="automation.updates")
        assert relay.refused == 0


async def test_an_app_that_is_disabled_is_not_asked_again():
    async with relayed(ShurikenSimulator(interval=0, enabled=False)) as relay:
        assert (await relay.until(Connection, event=ConnectionEvent.FAILED)).reason == "4003: The app is not enabled."


@pytest.mark.parametrize("configured", [False, True], ids=["discovered", "as the demo configures it"])
async def test_a_whole_relay_finds_the_server_and_streams(configured):
    async with ShurikenSimulator(interval=0.01).serve() as at:
        provider = {"adapter": "shuriken", "http_url": at.http, "options": OPTIONS, "accounts": {"main": {"credentials": {"key": KEY}}},
                    "pinned": [f"public_trade {BONK}", "signal global", "account main"]}  # fmt: skip
        if configured:
            provider["url"] = at.ws
        async with running_relay({"shuriken": provider}) as relay:
            with trio.fail_after(WITHIN):
                while {"public_trade", "signal", "notification"} - relay.hub.snapshot()["published"].keys():
                    await trio.sleep(0.01)


# --- the published SDK -----------------------------------------------------------------------------------------------


class Sdk:
    """Shuriken's SDK in Node.js: what it says, line by line."""

    def __init__(self, process):
        self._process = process
        self._text = b""

    async def says(self):
        with trio.fail_after(WITHIN):
            while b"\n" not in self._text:
                data = await self._process.stdout.receive_some()
                assert data, "the SDK ended"
                self._text += data
        line, _, self._text = self._text.partition(b"\n")
        return json.loads(line)


@asynccontextmanager
async def sdk(at, *streams, key=KEY):
    binary = node()
    if not (NODE_DIR / "node_modules" / "@shuriken").is_dir():
        missing("@shuriken/sdk-ts in tests/node", "run `make node`")
    wanted = json.dumps([{"stream": stream, "filter": filters} for stream, filters in streams])
    command = [binary, str(NODE_DIR / "sdk_client.mjs"), at.http, key, wanted]
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, check=False)
        )
        try:
            yield Sdk(process)
        finally:
            process.kill()
            nursery.cancel_scope.cancel()


FILTERS = {"svm.token": {"tokenAddress": BONK}, "evm.token": {"chainId": str(BASE), "tokenAddress": WETH}, "svm.wallet": {"walletAddress": WALLET},
           "evm.wallet": {"walletAddress": EVM_WALLET}, "alpha.signalFeedProfile": {"profileId": PROFILE}, "alpha.signalFeedNamed": {"feedId": FEED}}  # fmt: skip


def with_filter(stream):
    return stream, next((filters for prefix, filters in FILTERS.items() if stream.startswith(prefix)), {})


@pytest.mark.node
@pytest.mark.parametrize("envelope", ["bare", "data"])
async def test_the_sdk_gets_every_stream_and_comes_back_when_the_server_restarts(envelope):
    simulator = ShurikenSimulator(interval=0.02, envelope=envelope)
    async with simulator.serve() as at, sdk(at, *map(with_filter, STREAMS)) as client:
        assert (await client.says())["connected"]["wsPort"] == at.port
        for _ in range(2):
            waiting = set(STREAMS)
            while waiting:
                said = await client.says()
                assert "error" not in said
                waiting.discard(said["stream"])
            simulator.restart()


@pytest.mark.node
async def test_the_sdk_is_told_that_its_key_is_wrong():
    async with ShurikenSimulator(interval=0).serve() as at, sdk(at, key="sk_wrong") as client:
        assert (await client.says())["failed"] == "ShurikenAuthError"


@pytest.mark.node
async def test_the_sdk_is_told_of_a_channel_it_may_not_have():
    async with (
        ShurikenSimulator(interval=0).serve() as at,
        sdk(at, ("alpha.signalFeedNamed", {"feedId": "another"})) as client,
    ):
        assert "connected" in await client.says()
        said = await client.says()
        assert (said["stream"], said["error"]["status"]) == ("alpha.signalFeedNamed", 403)
