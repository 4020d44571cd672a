"""Calls the functions of plugins for one running relay, and contains their exceptions.

A transform that raises leaves the event unchanged; a tap or watcher that raises is skipped for that event. Every exception
is counted against its plugin; the first one and each power of ten is logged.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Literal

from relay.model.events import Event, Stamp
from relay.plugins.hookspecs import (
    AnsweredCommand,
    ChannelEvent,
    CommandTap,
    FrameTap,
    Grant,
    RelayApi,
    Service,
    Tap,
    TappedSession,
    Traffic,
    Transform,
    Watcher,
)
from relay.plugins.manager import FromPlugin, Plugins


class PluginCalls:
    """Calls to plugins. There are none before `collect`.

    Args:
        log: takes a line for the log as ``log(event, **fields)``.
    """

    def __init__(self, log: Callable[..., object]) -> None:
        self._log = log
        self.services: list[FromPlugin[Service]] = []
        self._transforms: list[FromPlugin[Transform]] = []
        self._taps: list[FromPlugin[Tap]] = []
        self._watchers: list[FromPlugin[Watcher]] = []
        self._command_taps: list[FromPlugin[CommandTap]] = []
        self._authorizers: list[FromPlugin[Callable[..., list[Grant]]]] = []
        self._collect: Callable[..., list[FromPlugin[Any]]] = lambda hook, arguments: []
        self.failures: Counter[str] = Counter()
        """Exceptions, by plugin."""
        self.withheld: Counter[str] = Counter()
        """Events that a transform dropped, by plugin."""

    def collect(self, plugins: Plugins, relay: RelayApi, settings: Mapping[str, Any]) -> None:
        """Call every hook that takes a relay: only here plugins learn which relay and settings are theirs."""
        collect = self._collect = partial(plugins.collect, relay=relay, settings=settings)
        services = self.services = collect("relay_services")
        self._transforms = collect("relay_transforms")
        self._taps = collect("relay_taps") + _of(services, "tap")
        self._watchers = collect("relay_watchers") + _of(services, "watch")
        self._command_taps = _of(services, "tap_commands")
        self._authorizers = plugins.calls("relay_authorize", relay=relay, settings=settings)

    def transform(self, event: Event, stamp: Stamp) -> Event | None:
        """Apply the transforms in order. Return None if one of them drops the event."""
        for transform in self._transforms:
            try:
                changed = transform.value(event, stamp)
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                self.failed(transform.plugin, "transform", error)
                continue
            if changed is None:
                self.withheld[transform.plugin] += 1
                return None
            event = changed
        return event

    def tap(self, event: Event, stamp: Stamp, id: str) -> None:
        """Pass a published event to the taps."""
        if self._taps:
            self._call_each(self._taps, "tap", event, stamp, id)

    def watch(self, event: ChannelEvent) -> None:
        """Pass a channel event to the watchers."""
        self._call_each(self._watchers, "watcher", event)

    def tap_command(self, answered: Callable[[], AnsweredCommand | None]) -> None:
        """Pass an answered command to the taps. ``answered`` creates it, and is only called if there is a tap."""
        if self._command_taps and (command := answered()) is not None:
            self._call_each(self._command_taps, "command tap", command)

    def frame_tap_of(self, session: TappedSession) -> FrameTap | None:
        """Return a function that passes a connection's traffic to all of its taps; None if no plugin has one."""
        taps = self._collect("relay_frame_taps", arguments={"session": session})
        for each in self.services:
            if each.value.tap_frames is not None and (tap := each.value.tap_frames(session)) is not None:
                taps.append(FromPlugin(each.plugin, tap))
        return partial(self._tap_frames, taps) if taps else None

    def _tap_frames(self, taps: Iterable[FromPlugin[FrameTap]], traffic: Traffic) -> None:
        self._call_each(taps, "frame tap", traffic)

    def _call_each(self, functions: Iterable[FromPlugin[Callable[..., Any]]], what: str, *arguments: object) -> None:
        for each in functions:
            try:
                each.value(*arguments)
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                self.failed(each.plugin, what, error)

    def authorize(self, api_key: str, channel: str) -> Grant | None:
        """Return the decision of the first plugin that makes one. Exceptions of plugins are raised."""
        for each in self._authorizers:
            for grant in each.value(api_key=api_key, channel=channel):
                return grant
        return None

    def figures(self, which: Literal["counts", "levels"]) -> Mapping[tuple[str, str, str], float]:
        """Return the figures of the services by (service, of, what). A service that fails has none."""
        found: dict[tuple[str, str, str], float] = {}
        for each in self.services:
            service = each.value
            read = service.counts if which == "counts" else service.levels
            try:
                figures = {} if read is None else read()
                found |= {(service.name, *labels): float(value) for labels, value in figures.items()}
            except Exception as error:  # noqa: BLE001 - foreign code may raise anything
                self.failed(each.plugin, which, error)
        return found

    def failed(self, plugin: str, what: str, error: Exception) -> None:
        """Count an exception of a plugin, and log the first one and each power of ten."""
        self.failures[plugin] += 1
        count = self.failures[plugin]
        if count == 10 ** (len(str(count)) - 1):
            self._log("plugin failed", plugin=plugin, what=what, count=count, error=f"{type(error).__name__}: {error}")


def _of(services: Iterable[FromPlugin[Service]], member: str) -> list[FromPlugin[Any]]:
    """Return this function of every service that has it."""
    found = [FromPlugin(each.plugin, getattr(each.value, member)) for each in services]
    return [each for each in found if each.value is not None]
