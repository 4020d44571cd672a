"""Apps: what is demanded of their settings, origins, and that secrets stay secret."""

import pytest

from relay.pusher import App, Limits
from tests.pusher.talking import make_app


def test_limits_default_to_the_specification():
    limits = Limits()
    assert (limits.channel_name, limits.event_name, limits.event_payload) == (164, 200, 10_240)
    assert (limits.batch, limits.channels_per_trigger) == (10, 100)
    assert (limits.presence_members, limits.member_size, limits.user_id, limits.watchlist) == (100, 1024, 128, 100)
    assert limits.client_events_per_second == 10


def test_secrets_are_in_no_repr():
    app = make_app(secrets=("first-secret", "second-secret"))
    assert "secret" not in repr(app)
    assert app.secret == "first-secret"


def test_apps_are_frozen_and_comparable():
    assert make_app() == make_app()
    assert make_app() != make_app(enabled=False)
    with pytest.raises(AttributeError):
        make_app().enabled = False  # type: ignore[misc]


@pytest.mark.parametrize(
    "wrong",
    [
        {"secrets": ()},
        {"secrets": ("",)},
        {"id": ""},
        {"key": "a/b"},
        {"key": ""},
        {"activity_timeout": 0},
        {"pong_timeout": 0},
        {"max_connections": 0},
        {"authorization_timeout": 0},
    ],
)
def test_settings_that_cannot_be(wrong):
    with pytest.raises(ValueError):
        make_app(**wrong)


def test_limits_are_positive():
    with pytest.raises(ValueError):
        Limits(channel_name=0)


@pytest.mark.parametrize(
    ("allowed", "origin", "may"),
    [
        (("*",), "https://anywhere.example", True),
        ((), "https://a.example", False),
        ((), None, True),
        (("a.example",), "https://a.example", True),
        (("a.example",), "https://a.example:8443", True),
        (("a.example",), "HTTPS://A.Example", True),
        (("a.example",), "https://b.a.example", False),
        (("a.example",), "https://a.example.evil.test", False),
        (("a.example",), "https://xa.example", False),
        (("*.a.example",), "https://b.a.example", True),
        (("*.a.example",), "https://c.b.a.example", True),
        (("*.a.example",), "https://a.example", False),
        (("*.a.example",), "https://evil.test/.a.example", False),
        (("https://a.example",), "https://a.example", True),
        (("https://a.example",), "http://a.example", False),
        (("https://a.example",), "https://a.example:8443", False),
        (("https://a.example:*",), "https://a.example:8443", True),
        (("a.example:8443",), "https://a.example:8443", True),
        (("a.example:8443",), "https://a.example", False),
        (("a.example",), "null", False),
        (("null",), "null", True),
        (("a.example", "localhost"), "http://localhost:3000", True),
        (("a[b].example",), "https://ab.example", False),
    ],
)
def test_origins(allowed, origin, may):
    assert make_app(allowed_origins=allowed).origin_allowed(origin) is may


def test_settings_may_come_as_lists():
    assert App(id="1", key="k", secrets=["a", "b"], allowed_origins=["x"]).secrets == ("a", "b")  # type: ignore[arg-type]
