"""Symbols: a provider's own text on one side, the canonical text on the other.

Canonical text is ``BASE/QUOTE`` for pairs and the listed ticker for equities. It comes from the provider's metadata or
from configuration, never from cutting a symbol in half. Where no rule applies the provider's own text is the symbol.
"""

from bisect import bisect
from collections.abc import Iterable, Iterator, Mapping

from relay.errors import nearest

#: Listed symbols a name that is not listed is compared with: a stranger may ask for any number of names.
_COMPARED = 16


class SymbolError(ValueError):
    """Two symbols claim the same name, or a symbol is written in a way that is not the canonical one."""


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
        self._sorted = None

    def learn(self, pairs: Iterable[tuple[str, str]], *, complete: bool = False) -> list[SymbolError]:
        """Learn pairs of a provider's metadata; return the ambiguous ones as errors instead of guessing one of them.

        An ambiguous native symbol keeps its own text as its canonical name. With ``complete`` these pairs are all that the
        provider has: what an earlier list had beside them is not listed any more.
        """
        refused, natives = [], set(self._pinned)
        for native, canonical in pairs:
            natives.add(native)
            try:
                self.add(native, canonical)
            except SymbolError as error:
                refused.append(error)
        if complete:
            self._listed, self._sorted = natives, None
        return refused

    def canonical(self, native: str) -> str:
        """Return the canonical symbol of a provider's ``native`` one; its own text where no rule applies."""
        return self._canonical.get(native, native)

    def native(self, symbol: str) -> str:
        """Return the provider's text of canonical ``symbol``.

        Raises:
            SymbolError: ``symbol`` is the provider's own spelling of a symbol whose canonical name is another (data asked
                for under it would arrive under the other name), or the table is complete and does not list it.
        """
        native = self._native.get(symbol)
        if native is None:
            other = self._canonical.get(symbol)
            if other is not None:
                raise SymbolError(f"{symbol} is written {other} here")
            native = symbol
        if self._listed is not None and native not in self._listed:
            near = self._nearest(symbol)
            hint = "" if near is None else f"; did you mean {near}?"
            raise SymbolError(f"the provider lists no symbol {symbol!r:.128}{hint}")
        return native

    def _nearest(self, symbol: str) -> str | None:
        """Return the listed symbol most like ``symbol``, of those that begin alike: a table may have thousands."""
        listed = self._listed or set()
        if self._sorted is None:
            known = {self._canonical.get(native, native) for native in listed}
            self._sorted = sorted((_plain(name), name) for name in known)
        place = bisect(self._sorted, (_plain(symbol), ""))
        around = self._sorted[max(0, place - _COMPARED // 2) : place + _COMPARED // 2]
        return nearest(symbol, (name for _, name in around))


def _plain(name: str) -> str:
    """Return ``name`` without case and separators, in which most mistaken names differ."""
    return "".join(filter(str.isalnum, name.lower()))
