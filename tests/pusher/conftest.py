"""Fixtures of the Pusher room's tests."""

from typing import Any

import pytest

from relay.pusher import App
from tests.pusher.talking import Conversation, make_app


@pytest.fixture
def app() -> App:
    return make_app()


@pytest.fixture
def talk(app: Any) -> Conversation:
    return Conversation(app)
