"""Symbols: a provider's own text on one side, the canonical text on the other.

Canonical text is ``BASE/QUOTE`` for pairs and the listed ticker for equities. It comes from the provider's metadata or
from configuration, never from cutting a symbol in half. Where no rule applies the provider's own text is the symbol.
"""

from collections.abc import Iterable, Iterator, Mapping


class SymbolError(ValueError):
    """Two symbols claim the same name, or a symbol is written in a way that is not the canonical one."""


class SymbolTable:
    """A one-to-one table of native and canonical symbols; names outside the table stand for themselves.

    Entries from configuration are `pinned`: metadata that comes later does not change them.
    """

    def __init__(self, configured: Mapping[str, str] | None = None) -> None:
        self._canonical: dict[str, str] = {}
        self._native: dict[str, str] = {}
        self._pinned: set[str] = set()
        for native, canonical in (configured or {}).items():
            self.add(native, canonical)
            self._pinned.add(native)

    def __len__(self) -> int:
        return len(self._canonical)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield (native, canonical) pairs in the order they were learned."""
        return iter(self._canonical.items())

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

    def learn(self, pairs: Iterable[tuple[str, str]]) -> list[SymbolError]:
        """Learn pairs of a provider's metadata; return the ambiguous ones as errors instead of guessing one of them.

        An ambiguous native symbol keeps its own text as its canonical name.
        """
        refused = []
        for native, canonical in pairs:
            try:
                self.add(native, canonical)
            except SymbolError as error:
                refused.append(error)
        return refused

    def canonical(self, native: str) -> str:
        """Return the canonical symbol of a provider's ``native`` one; its own text where no rule applies."""
        return self._canonical.get(native, native)

    def native(self, symbol: str) -> str:
        """Return the provider's text of canonical ``symbol``.

        Raises:
            SymbolError: ``symbol`` is the provider's own spelling of a symbol whose canonical name is another; data
                asked for under it would arrive under the other name.
        """
        native = self._native.get(symbol)
        if native is not None:
            return native
        other = self._canonical.get(symbol)
        if other is not None:
            raise SymbolError(f"{symbol} is written {other} here")
        return symbol
