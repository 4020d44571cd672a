"""A value of a message that is in no event is found; one that is there in another form is not taken for lost."""

from relay.adapter import Adapter, Session, Unknown, loads
from relay.model.events import Quote
from relay.testing.conformance import subject
from relay.testing.evidence import lost
from relay.testing.recording import Record, Recording


class Half(Adapter):
    """Reads half of what it is sent."""

    name = "half"
    session = Session(url="wss://x")

    def decode(self, message):
        match loads(message):
            case {"type": "quote", "of": [{"symbol": name, **rest}, *_]}:
                yield Quote(symbol=name, bid=rest["bid"], ask=rest.get("ask"), time=rest.get("at"))
            case {"data": str(data)}:
                yield Quote(symbol=loads(data)["symbol"], bid="1")
            case other:
                yield Unknown(other)


def found(*frames):
    records = tuple(Record(t=float(n), dir="in", data=text) for n, text in enumerate(frames, start=1))
    return lost(subject(Half, Recording(records)))


def test_every_place_that_went_nowhere_is_named_once_with_a_value():
    frame = '{"type":"quote","of":[{"symbol":"A","bid":1.50,"venue":"X","ids":[7,"seven"]},{"venue":"Y"}]}'
    assert found(frame, frame.replace("X", "Z")) == {
        "quote.type": "quote", "quote.of[].venue": "X", "quote.of[].ids[0]": 7, "quote.of[].ids[1]": "seven",
    }  # fmt: skip


def test_other_forms_of_a_number_and_a_time_are_kept_and_nothing_is_not_looked_for():
    frame = '{"of":[{"symbol":"A","bid":"1.5E0","ask":2,"at":"2026-01-01T01:00:00+01:00","old":null,"on":true,"no":"","zero":0}],"type":"quote"}'
    assert found(frame) == {"quote.type": "quote"}


def test_json_in_a_text_is_looked_into_and_what_is_not_understood_is_lost():
    assert found('{"data":"{\\"symbol\\":\\"A\\",\\"maker\\":\\"M\\"}"}') == {".data.maker": "M"}
    assert found('{"type":"news","text":"hello"}', "no JSON", "[1,") == {"news.type": "news", "news.text": "hello"}
