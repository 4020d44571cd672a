"""Symbols: a provider's own text on one side, the canonical text on the other.

Canonical text is ``BASE/QUOTE`` for pairs and the listed ticker for equities. It comes from the provider's metadata or
from configuration, never from cutting a symbol in half. Where no rule applies the provider's own text is the symbol.
"""

import difflib
from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping

from attrs import field, frozen

from relay.errors import nearest

#: Most listed symbols with which an unlisted name is compared, since clients may request any number of names.
_COMPARED = 16
#: Symbols on either side that a search compares where nothing else is found.
_NEAR = 32
#: Characters of a query that are compared then, and per cent that may differ.
_LONGEST, _UNLIKE = 64, 30
#: `FoundSymbol.distance` of a symbol that is only spelt nearly alike; the less alike, the more is added.
NEAR = 3


class SymbolError(ValueError):
    """Raised if two symbols have the same name, or a symbol is not in its canonical form."""


@frozen(order=True)
class FoundSymbol:
    """A symbol that a search found. Sorting puts the likeliest first.

    Attributes:
        distance: 0 the symbol itself, 1 it begins with the query, 2 the query is a part of it or of its name, `NEAR` and
            more: it is only spelt nearly alike.
        name: the provider's name of it for people, None where it gives none.
    """

    distance: int
    canonical: str = field(order=lambda symbol: (len(symbol), symbol))
    native: str = field(order=False)
    name: str | None = field(default=None, order=False)


class SymbolTable:
    """A one-to-one table of native and canonical symbols; names outside the table stand for themselves.

    Entries from configuration are `pinned`: metadata that comes later does not change them. A table is `complete` once it
    has learned the provider's whole list: then there are no other names than those listed and those configured.
    """

    def __init__(self, configured: Mapping[str, str] | None = None) -> None:
        self._canonical: dict[str, str] = {}
        self._native: dict[str, str] = {}
        self._pinned: set[str] = set()
        #: The provider's whole list and the configured symbols; None while the list is not known to be whole.
        self._listed: set[str] | None = None
        #: Canonical symbols in order, as `_plain` writes them, for suggestions; None until one is asked for.
        self._sorted: list[tuple[str, str]] | None = None
        self._names: dict[str, str] = {}
        #: The provider's other names, and the native symbol that each stands for.
        self._aliases: dict[str, str] = {}
        #: (native, canonical, its spellings as `_plain` writes them, the canonical one first, name) for searches; None until
        #: one is made.
        self._spellings: list[tuple[str, str, tuple[str, ...], str]] | None = None
        for native, canonical in (configured or {}).items():
            self.add(native, canonical)
            self._pinned.add(native)

    def __len__(self) -> int:
        return len(self._canonical)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield (native, canonical) pairs in the order they were learned."""
        return iter(self._canonical.items())

    @property
    def complete(self) -> bool:
        """True if a symbol that is not in the table does not exist at the provider."""
        return self._listed is not None

    def add(self, native: str, canonical: str) -> None:
        """Learn one pair. Learning the same pair again changes nothing.

        Raises:
            SymbolError: the native symbol already has another canonical one, or the canonical one another native.
        """
        if not native or not canonical:
            raise SymbolError(f"a symbol is empty: {native!r} = {canonical!r}")
        if native in self._pinned:
            return
        known, taken = self._canonical.get(native), self._native.get(canonical)
        if known not in (None, canonical):
            raise SymbolError(f"{native} is {known}, it cannot also be {canonical}")
        if taken not in (None, native):
            raise SymbolError(f"{canonical} is {taken} at this provider, it cannot also be {native}")
        self._canonical[native] = canonical
        self._native[canonical] = native
        if self._listed is not None:
            self._listed.add(native)
        self._sorted = self._spellings = None

    def learn(
        self, pairs: Iterable[tuple[str, str]], *, complete: bool = False, names: Mapping[str, str] | None = None
    ) -> list[SymbolError]:
        """Learn pairs of a provider's metadata; return the ambiguous ones as errors instead of guessing one of them.

        An ambiguous native symbol keeps its own text as its canonical name. With ``complete`` these pairs are all that the
        provider has: what an earlier list had beside them is not listed any more. ``names`` are what it calls native symbols
        for people.
        """
        self._names.update(names or {})
        refused, natives = [], set(self._pinned)
        for native, canonical in pairs:
            natives.add(native)
            try:
                self.add(native, canonical)
            except SymbolError as error:
                refused.append(error)
        if complete:
            self._listed, self._sorted = natives, None
        self._spellings = None
        return refused

    def describe(self, native: str, *, name: str | None = None, aliases: Iterable[str] = ()) -> None:
        """Learn the name of a native symbol for people, and its other names.

        A search finds the symbol by them; a subscription to one is refused, and names the canonical symbol.
        """
        if name is not None and self._names.get(native) != name:
            self._names[native] = name
            self._spellings = None
        for alias in aliases:
            if self._aliases.get(alias) != native:
                self._aliases[alias] = native
                self._spellings = None

    def canonical(self, native: str) -> str:
        """Return the canonical symbol of a provider's ``native`` one; the native text if it is not in the table."""
        return self._canonical.get(native, native)

    def native(self, symbol: str) -> str:
        """Return the provider's text of canonical ``symbol``.

        Raises:
            SymbolError: ``symbol`` is the provider's own spelling, or another name, of a symbol whose canonical name is
                another (data asked for under it would arrive under that one), or the table is complete and does not list it.
        """
        native = self._native.get(symbol)
        if native is None:
            other = self._canonical.get(symbol)
            if other is not None:
                raise SymbolError(f"{symbol} is written {other} here")
            if symbol in self._aliases and symbol not in (self._listed or ()):
                raise SymbolError(f"{symbol} is written {self.canonical(self._aliases[symbol])} here")
            native = symbol
        if self._listed is not None and native not in self._listed:
            near = self._nearest(symbol)
            hint = "" if near is None else f"; did you mean {near}?"
            raise SymbolError(f"the provider lists no symbol {symbol!r:.128}{hint}")
        return native

    def search(self, query: str, more: Iterable[str] = ()) -> list[FoundSymbol]:
        """Return the symbols that ``query`` may mean, unsorted; all of them for an empty one.

        Case and separators do not matter: ``btcusd`` finds ``BTC/USD``. A name is found by words that are parts of it. Only
        if nothing is found, symbols that are spelt nearly alike are returned. ``more`` are canonical symbols that are known
        to work beside the table's.
        """
        spellings = self._all_spellings(more)
        wanted, words = _plain(query), query.lower().split()
        found = [
            FoundSymbol(distance, canonical, native, self._names.get(native))
            for native, canonical, plain, name in spellings
            if (distance := _distance(wanted, words, plain, name)) is not None
        ]
        if found or not wanted:
            return found
        alike = sorted((plain[0], canonical, native) for native, canonical, plain, _ in spellings)
        place = bisect(alike, (wanted, "", ""))
        around = {
            plain: (canonical, native) for plain, canonical, native in alike[max(0, place - _NEAR) : place + _NEAR]
        }
        likeness = difflib.SequenceMatcher(b=wanted[:_LONGEST])
        close = []
        for plain, (canonical, native) in around.items():
            likeness.set_seq1(plain)
            if (unlike := round((1 - likeness.ratio()) * 100)) <= _UNLIKE:
                close.append(FoundSymbol(NEAR + unlike, canonical, native, self._names.get(native)))
        return close

    def _all_spellings(self, more: Iterable[str]) -> list[tuple[str, str, tuple[str, ...], str]]:
        if self._spellings is None:
            listed = self._canonical if self._listed is None else self._listed
            others: dict[str, list[str]] = {}
            for alias, native in self._aliases.items():
                others.setdefault(native, []).append(_plain(alias))
            self._spellings = [
                (
                    native,
                    canonical,
                    (_plain(canonical), _plain(native), *others.get(native, ())),
                    self._names.get(native, "").lower(),
                )
                for native in listed
                for canonical in [self._canonical.get(native, native)]
            ]
        beside = [each for each in dict.fromkeys(more) if each not in self._native]
        return self._spellings + [(each, each, (_plain(each),), "") for each in beside]

    def _nearest(self, symbol: str) -> str | None:
        """Return the listed symbol most like ``symbol``, of those that begin alike: a table may have thousands."""
        listed = self._listed or set()
        if self._sorted is None:
            known = {self._canonical.get(native, native) for native in listed}
            self._sorted = sorted((_plain(name), name) for name in known)
        place = bisect(self._sorted, (_plain(symbol), ""))
        around = self._sorted[max(0, place - _COMPARED // 2) : place + _COMPARED // 2]
        return nearest(symbol, (name for _, name in around))


def _distance(wanted: str, words: list[str], plain: tuple[str, ...], name: str) -> int | None:
    """Return the distance of a symbol from a query, see `FoundSymbol`; None if it does not match."""
    if wanted in plain:
        return 0
    if any(each.startswith(wanted) for each in plain):
        return 1
    if wanted and any(wanted in each for each in plain):
        return 2
    return 2 if name and words and all(word in name for word in words) else None


def _plain(name: str) -> str:
    """Return ``name`` without case and separators, in which most mistaken names differ."""
    return "".join(filter(str.isalnum, name.lower()))
