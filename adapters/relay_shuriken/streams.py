"""Shuriken's 21 streams (https://docs.shuriken.trade/api-reference/websocket/streams), and which of them a topic is.

A symbol is written as Shuriken's filters have it: a token of Solana by its mint, one of an EVM chain as
``<chainId>:<tokenAddress>``. Signals are of a token, of a wallet (``wallet:<address>``), or of a feed that has no filter
(``global``, ``creations``, ``graduations``).

What Shuriken authorizes for one user only belongs to the account, never to a public symbol.
"""

from collections.abc import Iterable, Mapping

from attrs import frozen

from relay.model.channels import Topic

PROBE = "alpha.signalFeedGlobal"
"""The stream that the bootstrap requests before any is wanted, as the published SDKs do."""

#: The feeds without a filter, by the symbol their signals have.
FEEDS = {"global": PROBE, "creations": "svm.bondingCurve.creations", "graduations": "svm.bondingCurve.graduations"}
#: The streams of one token, by kind of topic and side of the network.
TOKENS = {
    ("public_trade", "svm"): ("svm.token.swaps",),
    ("public_trade", "evm"): ("evm.token.swaps",),
    ("reference", "svm"): ("svm.token.poolInfo", "svm.token.distributionStats", "svm.token.holderStats"),
    ("reference", "evm"): ("evm.token.poolInfo",),
    ("signal", "svm"): ("svm.token.balances",),
    ("signal", "evm"): ("evm.token.balances",),
}
WALLETS = {
    "svm": ("svm.wallet.nativeBalance", "svm.wallet.tokenBalances"),
    "evm": ("evm.wallet.nativeBalance", "evm.wallet.tokenBalances"),
}
#: The user's own streams; `PROFILE` and `NAMED` besides, for each id the operator lists.
OWN = ("alpha.signalFeedPersonal", "alpha.personal", "portfolio.notifications", "automation.updates")
PROFILE, NAMED = "alpha.signalFeedProfile", "alpha.signalFeedNamed"
ACCOUNT = frozenset((*OWN, PROFILE, NAMED))


@frozen
class Want:
    """One stream with its filter: what the bootstrap turns into a channel."""

    stream: str
    filter: tuple[tuple[str, str], ...] = ()

    def asked(self) -> Mapping[str, object]:
        """Return it as the bootstrap's body has it."""
        return {"stream": self.stream, "filter": dict(self.filter)}

    @property
    def native(self) -> str:
        """The symbol of its topic, as it was asked for; empty where it is of none."""
        filters = dict(self.filter)
        if "walletAddress" in filters:
            return f"wallet:{filters['walletAddress']}"
        chain = f"{filters['chainId']}:" if "chainId" in filters else ""
        return f"{chain}{filters.get('tokenAddress', '')}"


def canonical(stream: str) -> str:
    """Return the SDKs' spelling of a stream's name, ``alpha.signalFeedGlobal``: the page's ``alpha.signalFeed.global``."""
    family, dot, feed = stream.partition("signalFeed.")
    return f"{family}signalFeed{feed[:1].upper()}{feed[1:]}" if dot else stream


def side(address: str) -> str:
    """Return the kind of network of an address; only those of EVM chains begin with 0x."""
    return "evm" if address.startswith("0x") else "svm"


def wants(topic: Topic, native: str, profiles: Iterable[str] = (), feeds: Iterable[str] = ()) -> tuple[Want, ...]:
    """Return the streams of a topic; ``native`` is its symbol as Shuriken writes it.

    Raises:
        ValueError: no stream of Shuriken is of that kind and symbol; the text says how a symbol is written.
    """
    if topic.kind == "account":
        own = [Want(stream) for stream in OWN]
        own += [Want(PROFILE, (("profileId", profile),)) for profile in profiles]
        return (*own, *(Want(NAMED, (("feedId", feed),)) for feed in feeds))
    if topic.kind == "signal" and native in FEEDS:
        return (Want(FEEDS[native]),)
    chain, colon, address = native.rpartition(":")
    if chain == "wallet" and topic.kind == "signal":
        return tuple(Want(stream, (("walletAddress", address),)) for stream in WALLETS[side(address)])
    if side(address) == "evm" and chain.isdecimal():
        filters: tuple[tuple[str, str], ...] = (("chainId", chain), ("tokenAddress", address))
    elif side(address) == "svm" and not colon:
        filters = (("tokenAddress", address),)
    else:
        raise ValueError(f"{native}: a token is its mint, or CHAIN_ID:0xADDRESS; a signal may be of wallet:ADDRESS")
    return tuple(Want(stream, filters) for stream in TOKENS[topic.kind, side(address)])
