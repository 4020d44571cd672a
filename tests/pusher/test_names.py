"""Names: what each prefix means, and what each refusal says."""

import pytest

from relay.pusher import ChannelType, ProtocolError, channel_type, check_channel_name, names


@pytest.mark.parametrize(
    ("name", "kind", "authorized", "encrypted", "cache", "presence"),
    [
        ("quote.binance.BTC-USDT", ChannelType.PUBLIC, False, False, False, False),
        ("private-a", ChannelType.PRIVATE, True, False, False, False),
        ("presence-a", ChannelType.PRESENCE, True, False, False, True),
        ("private-encrypted-a", ChannelType.ENCRYPTED, True, True, False, False),
        ("cache-a", ChannelType.CACHE, False, False, True, False),
        ("private-cache-a", ChannelType.PRIVATE_CACHE, True, False, True, False),
        ("presence-cache-a", ChannelType.PRESENCE_CACHE, True, False, True, True),
        ("private-encrypted-cache-a", ChannelType.ENCRYPTED_CACHE, True, True, True, False),
        ("#server-to-user-7", ChannelType.SERVER_TO_USER, False, False, False, False),
        ("privateer", ChannelType.PUBLIC, False, False, False, False),
        ("x-private-a", ChannelType.PUBLIC, False, False, False, False),
        ("Private-a", ChannelType.PUBLIC, False, False, False, False),
    ],
)
def test_the_prefix_is_the_type(name, kind, authorized, encrypted, cache, presence):
    assert channel_type(name) is check_channel_name(name) is kind
    assert (kind.authorized, kind.encrypted, kind.cache, kind.presence) == (authorized, encrypted, cache, presence)


def test_types_are_distinct():
    assert len(ChannelType) == 9


@pytest.mark.parametrize("name", ["a", "A-Za-z0-9_-=@,.;", "depth.helio.ES=2009=2D26", "x" * 164])
def test_valid_names(name):
    check_channel_name(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty"),
        ("x" * 165, "longer than 164 characters (limit channel_name)"),
        ("a b", "may only contain A-Z a-z 0-9 _ - = @ , . ;"),
        ("quote.a.B/C", "a symbol's / is written -: quote.a.B-C"),
        ("a/b", "may only contain"),
        ("naïve", "may only contain"),
        ("a\n", "may only contain"),
        ("#private", "may only contain"),
        ("#server-to-user-", "may only contain"),
        ("#server-to-user-a b", "may only contain"),
        ("x#server-to-user-1", "may only contain"),
    ],
)
def test_invalid_names_are_told_why(name, says):
    with pytest.raises(ProtocolError) as refusal:
        check_channel_name(name)
    assert says in refusal.value.message


def test_a_limit_may_be_set():
    check_channel_name("x" * 200, 200)
    with pytest.raises(ProtocolError, match="longer than 10"):
        check_channel_name("x" * 11, 10)


@pytest.mark.parametrize("text", ["123.456", "0.0", "1" * 20 + ".1"])
def test_socket_ids(text):
    assert names.is_socket_id(text)
    names.check_socket_id(text)


@pytest.mark.parametrize("text", ["", "123", "123.", ".1", "1.2.3", "1.2\n", "a.b", "1.-2", "١.٢"])
def test_what_is_no_socket_id(text):
    assert not names.is_socket_id(text)
    with pytest.raises(ProtocolError, match="socket_id"):
        names.check_socket_id(text)


@pytest.mark.parametrize("name", ["quote", "client-moved", "x" * 200, "pusherette", "überschrift"])
def test_event_names(name):
    names.check_event_name(name)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("", "empty"),
        ("x" * 201, "limit event_name"),
        ("pusher:ping", "reserved"),
        ("pusher_internal:member_added", "reserved"),
        ("tickrelay:resume_failed", "reserved"),
    ],
)
def test_event_names_refused(name, says):
    with pytest.raises(ProtocolError, match=says):
        names.check_event_name(name)


def test_user_ids():
    names.check_user_id("u" * 128)
    with pytest.raises(ProtocolError, match="limit user_id"):
        names.check_user_id("u" * 129)
    with pytest.raises(ProtocolError, match="empty"):
        names.check_user_id("")


def test_a_users_own_channel_and_back():
    assert names.server_to_user_id(names.server_to_user_channel("u-1")) == "u-1"
    assert names.server_to_user_id("private-u-1") is None
