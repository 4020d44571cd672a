"""Backoff, templates and redaction, renewal, counters: the small rooms."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.adapter import Backoff, Context, Fetch, Session
from relay.errors import HIDDEN
from relay.model.events import Trade
from relay.provider.accounts import Fills
from relay.provider.retry import Renewal, Retry, retry_after
from relay.provider.subscriptions import Snapshots
from relay.provider.templates import KEPT, Redactor, TemplateError, fetch_target, fill


def test_full_jitter_is_a_share_of_a_growing_ceiling():
    retry = Retry(Backoff(first=1, factor=2, cap=30, jitter=1))
    assert [retry.wait(0.5) for _ in range(7)] == [0.5, 1, 2, 4, 8, 15, 15]
    assert Retry(Backoff(first=10, jitter=1)).wait(0.0) == 0
    assert Retry(Backoff(first=10, jitter=0.2)).wait(0.0) == pytest.approx(8)
    assert Retry(Backoff(first=1, cap=30)).wait(0.0, longest=True) == 30
    assert Retry(Backoff(first=1)).wait(0.1, at_least=120) == 120


@pytest.mark.parametrize("attempts", [10, 10_000])
def test_many_attempts_do_not_overflow(attempts):
    retry = Retry(Backoff())
    retry.attempts = attempts
    assert retry.wait(0.999) <= 30


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 5),
        (" 0 ", 0),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("Tue, 14 Nov 2023 22:13:30 GMT", 10),
        ("9" * 30, None),
    ],
)
def test_retry_after(text, seconds):
    assert retry_after({"retry-after": text}, 1_700_000_000_000_000_000) == seconds


def test_templates_take_learned_before_credentials_before_options():
    context = Context(
        provider="x", options={"a": "1", "b": "1", "c": "1"}, credentials={"b": "2", "c": "2"}, learned={"c": "3"}
    )
    assert fill("{a}{b}{c}", context, what="url") == "123"
    with pytest.raises(TemplateError, match=r"the session's url needs \{d\}"):
        fill("{d}", context, what="the session's url")


def test_values_are_not_templates_themselves():
    context = Context(provider="x", options={"a": "{b}"}, credentials={"b": "secret"})
    assert fill("{a}", context, what="url") == "{b}"


def test_urls_of_fetches():
    context = Context(provider="x", options={"host": "v.test"}, credentials={"key": "k&1"})
    session = Session(url="wss://x", http="https://{host}/api/v1")
    request = Fetch(tag=1, url="/book?x=1", query={"limit": "5"}, secret_query={"key": "k&1"})
    url, shown = fetch_target(request, session, context)
    assert url == "https://v.test/api/v1/book?x=1&limit=5&key=k%261"
    assert "k%261" not in shown
    assert fetch_target(Fetch(tag=1, url="https://other.test/"), session, context)[0] == "https://other.test/"
    with pytest.raises(TemplateError, match="which is empty"):
        fetch_target(Fetch(tag=1, url="/x"), Session(url="wss://x"), context)


@given(st.text(min_size=1), st.text(), st.text())
def test_no_secret_survives_redaction(secret, before, after):
    edge = "x" if secret.isdigit() else ""  # a number is not found within a longer one
    shown = Redactor(Context(provider="x", credentials={"k": secret}))(before + edge + secret + edge + after)
    assert secret not in shown.replace(HIDDEN, "\0" if "\0" not in secret else "\1")


def test_a_secret_that_was_replaced_is_still_secret():
    context = Context(provider="x", learned={"token": "old"})
    redact = Redactor(context)
    assert redact("old") == HIDDEN
    context.learned["token"] = "new"
    assert redact("old new") == f"{HIDDEN} {HIDDEN}"


def test_the_memory_of_replaced_secrets_is_bounded():
    context = Context(provider="x", credentials={"key": "abc"}, learned={"token": "0"})
    redact = Redactor(context)
    for number in range(1, 100):
        context.learned["token"] = f"token{number}"
        assert redact(f"abc token{number}") == f"{HIDDEN} {HIDDEN}"
    assert redact("token96 token97 token98 token99") == " ".join([HIDDEN] * KEPT)
    assert len(redact._pattern.pattern.split("|")) == KEPT + 1


def test_a_login_is_renewed_before_its_end_where_the_provider_says_it():
    renewal = Renewal()
    assert renewal.deadline() == float("inf")
    renewal.learned(100, 0, None)
    assert renewal.deadline() == float("inf")
    renewal.learned(0, 1_000_000_000, 101.0)
    assert renewal.deadline() == 80
    assert not renewal.take_due(79)
    assert renewal.take_due(80)
    assert not renewal.take_due(80)
    renewal.learned(0, 1_000_000_000_000, 1.0)  # already over, by our clock
    assert renewal.deadline() == 5


def test_the_memory_of_fills_is_bounded_and_per_account():
    fills = Fills(size=2)

    def fill_of(id, account=None):
        return Trade(id=id, order_id="o", symbol="S", side="BUY", quantity="1", price="1", account=account)

    assert fills.remember(fill_of("1"), "main")
    assert not fills.remember(fill_of("1", "main"), "main")
    assert fills.remember(fill_of("1", "other"), "main")
    assert fills.remember(fill_of("2"), "main")
    assert fills.remember(fill_of("1"), "main")  # forgotten by now


def test_snapshots_are_asked_for_one_at_a_time_and_later_each_time():
    snapshots = Snapshots()
    snapshots.need("S", 10)
    snapshots.need("S", 5)
    assert snapshots.take_due(4) == []
    assert snapshots.take_due(5) == ["S"]
    snapshots.need("S", 5)
    assert snapshots.take_due(6) == []
    waits = []
    now = 5.0
    for _ in range(8):
        snapshots.failed("S", now)
        waits.append(snapshots.deadline() - now)
        now = snapshots.deadline()
        assert snapshots.take_due(now) == ["S"]
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30]
    snapshots.done("S")
    assert snapshots.deadline() == float("inf")
