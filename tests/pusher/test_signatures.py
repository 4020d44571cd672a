"""Signatures: the vectors of the reference, and agreement with the official Python library."""

import json
import time
from urllib.parse import urlsplit

import pusher
import pytest
from pusher.http import GET, POST, Request

from relay.pusher import signatures
from tests.pusher.talking import make_app

BODY = b'{"name":"foo","channels":["project-3"],"data":"{\\"some\\":\\"data\\"}"}'
QUERY = (
    "auth_key=278d425bdf160c739803&auth_timestamp=1353088179&auth_version=1.0&body_md5=ec365a775a4cd0599faeb73354201b6f"
)
SIGNATURE = "da454824c97ba181a32ccc17a72625ba02771f50b50e1e7430e47a1f3f457e6c"


@pytest.fixture
def library(app):
    return pusher.Pusher(app_id=app.id, key=app.key, secret=app.secret, host="127.0.0.1", port=1, ssl=False)


# The reference -------------------------------------------------------------------------------------------------------


def test_the_worked_request_of_the_reference(app):
    assert signatures.md5_hex(BODY) == "ec365a775a4cd0599faeb73354201b6f"
    text = signatures.request_string("POST", "/apps/3/events", signatures.query_pairs(QUERY))
    assert signatures.sign(app.secret, text) == SIGNATURE
    assert signatures.verify_request(
        app.secrets, "post", "/apps/3/events", f"auth_signature={SIGNATURE}&{QUERY}", SIGNATURE
    )


def test_our_signed_query_is_the_worked_one(app):
    query = signatures.signed_query(app, "POST", "/apps/3/events", BODY, 1353088179.9)
    assert query == f"{QUERY}&auth_signature={SIGNATURE}"


def test_the_worked_subscriptions_of_the_reference(app):
    private = signatures.channel_auth(app, "1234.1234", "private-foobar")
    assert private == f"{app.key}:58df8b0c36d6982b82c3ecf6b4662e34fe8c25bba48f5369f135bf843651c3a4"
    data = '{"user_id":10,"user_info":{"name":"Mr. Channels"}}'
    presence = signatures.channel_auth(app, "1234.1234", "presence-foobar", data)
    assert presence == f"{app.key}:31935e7d86dba64c2a90aed31fdc61869f9b22ba9d8863bba239c03ca481bc80"


# Subscriptions and sign-ins ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [None, {"user_id": "1", "user_info": {"name": "Zoë"}}])
@pytest.mark.parametrize("channel", ["private-a", "presence-a", "private-encrypted-a"])
def test_what_the_library_authorizes_is_verified(app, channel, data):
    library = pusher.Pusher(
        app_id="3",
        key=app.key,
        secret=app.secret,
        encryption_master_key_base64="MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    )
    given = library.authenticate(channel, "1.2", data)
    assert signatures.verify_channel_auth(app, given["auth"], "1.2", channel, given.get("channel_data"))
    assert signatures.channel_auth(app, "1.2", channel, given.get("channel_data")) == given["auth"]


def test_a_users_authentication_by_the_library_is_verified(app, library):
    given = library.authenticate_user("1.2", {"id": "7", "watchlist": ["8"]})
    assert signatures.verify_user_auth(app, given["auth"], "1.2", given["user_data"])
    assert signatures.user_auth(app, "1.2", given["user_data"]) == given["auth"]


@pytest.mark.parametrize(
    "change",
    [
        {"socket_id": "1.3"},
        {"channel": "private-b"},
        {"channel_data": '{"user_id":"2"}'},
        {"channel_data": None},
        {"auth": "other-key:"},
        {"auth": ""},
        {"auth": ":"},
        {"auth": "é:ü"},
    ],
)
def test_a_signature_holds_for_nothing_else(app, change):
    data = '{"user_id":"1"}'
    good = {
        "auth": signatures.channel_auth(app, "1.2", "private-a", data),
        "socket_id": "1.2",
        "channel": "private-a",
        "channel_data": data,
    }
    assert signatures.verify_channel_auth(app, **good)
    if change.get("auth") == "other-key:":
        change = {"auth": "other-key:" + good["auth"].partition(":")[2]}
    assert not signatures.verify_channel_auth(app, **(good | change))


def test_secrets_rotate():
    old, both, new = (make_app(secrets=secrets) for secrets in (("old",), ("new", "old"), ("new",)))
    from_old, from_both = (signatures.channel_auth(app, "1.2", "private-a") for app in (old, both))
    assert signatures.verify_channel_auth(both, from_old, "1.2", "private-a")
    assert signatures.verify_channel_auth(both, from_both, "1.2", "private-a")
    assert signatures.verify_channel_auth(new, from_both, "1.2", "private-a")
    assert not signatures.verify_channel_auth(new, from_old, "1.2", "private-a")


# Requests ------------------------------------------------------------------------------------------------------------


def verified(app, method: str, path: str, query: str) -> bool:
    given = dict(signatures.query_pairs(query))["auth_signature"]
    return signatures.verify_request(app.secrets, method, path, query, given)


@pytest.mark.parametrize(
    ("method", "path", "params"),
    [
        (GET, "/apps/3/channels", {"filter_by_prefix": "presence-", "info": "user_count,subscription_count"}),
        (GET, "/apps/3/channels/private-a=b@c,d.e;f", {}),
        (POST, "/apps/3/events", {"name": "a", "data": "é", "channels": ["b"]}),
        (POST, "/users/u-1/terminate_connections", {}),
    ],
)
def test_requests_of_the_library_are_verified(app, library, method, path, params):
    request = Request(library._pusher_client, method, path, params)
    url = urlsplit(request.url)
    assert "body_md5=" in url.query  # on GET too: of the empty body
    assert verified(app, method, url.path, url.query)
    assert not verified(app, method, url.path + "x", url.query)
    assert not verified(make_app(secrets=("other",)), method, url.path, url.query)


def test_what_is_escaped_on_the_way_is_verified_unescaped(app):
    query = signatures.signed_query(
        app, "GET", "/apps/3/channels/#server-to-user-1", b"", 1e9, {"Filter": "a b&c=d+e%", "info": "x,y"}
    )
    assert "a%20b%26c%3Dd%2Be%25" in query
    assert verified(app, "GET", "/apps/3/channels/%23server-to-user-1", query)
    assert verified(app, "GET", "/apps/3/channels/%23server-to-user-1", query.replace("%20", "+"))
    assert verified(app, "GET", "/apps/3/channels/%23server-to-user-1", query.replace("%2C", ","))
    assert not verified(app, "GET", "/apps/3/channels/%23server-to-user-1", query.replace("x%2Cy", "x%2Cz"))


def test_a_plus_sent_as_itself_is_verified(app):
    text = signatures.request_string("GET", "/p", [("a", "1+2")])
    assert signatures.verify_request(app.secrets, "GET", "/p", "a=1+2", signatures.sign(app.secret, text))


def test_pairs_are_sorted_by_key_in_lower_case(app):
    pairs = signatures.query_pairs("b=1&Name=Something%20else&auth_signature=x&a=2&empty=&lone")
    assert signatures.request_string("get", "/p", pairs) == "GET\n/p\na=2&b=1&empty=&lone=&name=Something else"


# Webhooks ------------------------------------------------------------------------------------------------------------


def test_webhooks_are_what_the_library_validates(app, library):
    events = [{"name": "channel_occupied", "channel": "a"}]
    body = json.dumps({"time_ms": int(time.time() * 1000), "events": events}).encode()
    headers = signatures.webhook_headers(app, body)
    seen = library.validate_webhook(headers["X-Pusher-Key"], headers["X-Pusher-Signature"], body.decode())
    assert seen["events"] == events
    assert signatures.verify_webhook(app, headers["X-Pusher-Key"], headers["X-Pusher-Signature"], body)
    assert not signatures.verify_webhook(app, "other", headers["X-Pusher-Signature"], body)
    assert not signatures.verify_webhook(app, app.key, headers["X-Pusher-Signature"], body + b" ")
