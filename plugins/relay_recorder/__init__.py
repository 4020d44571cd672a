"""The recorder of tickrelay: files of what sessions send and receive, and of what is published."""

from collections.abc import Iterable, Mapping
from typing import Any

from relay.plugins import Service, hookimpl
from relay_recorder.table import RecorderTable

TABLE = "recorder"


@hookimpl
def relay_settings() -> Mapping[str, type]:
    return {TABLE: RecorderTable}


@hookimpl
def relay_check_settings(settings: Mapping[str, Any]) -> None:
    _table(settings).check()


@hookimpl
def relay_services(settings: Mapping[str, Any]) -> Iterable[Service]:
    table = _table(settings)
    if not table.directory:
        return []
    from relay_recorder.recorder import Recorder

    recorder = Recorder(table)
    return [
        Service(
            "recorder",
            recorder.run,
            tap=recorder.take_event if table.events else None,
            tap_frames=recorder.tap,
            counts=recorder.counts,
            levels=recorder.levels,
        )
    ]


def _table(settings: Mapping[str, Any]) -> RecorderTable:
    table: RecorderTable = settings.get(TABLE) or RecorderTable()
    return table
