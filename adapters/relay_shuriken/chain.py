"""Simulate the networks: swaps, balances, pools, curves, feeds, and one user whose automation trades.

Tokens trade on a `relay.testing.market.Market`; every print is a swap, moves its maker's balances and, every fourth time,
becomes a signal of the feeds. Every `AUTOMATED` steps the user's automation buys, which is seen as its task's update,
its swap, the wallet's balances, and a notification. The same seed and the same steps give the same happenings.
"""

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from attrs import frozen

from relay.model.enums import Side
from relay.testing.market import Market, Printed, Tradable, plain

Payload = dict[str, Any]

SOL = "So11111111111111111111111111111111111111112"
BONK = "DezXAZ8z7PnrnRJjz3wXBoRgixCa6xjnB7YaB1pPB263"
WETH = "0x4200000000000000000000000000000000000006"
USDC, EVM_USDC = "EPjFWdd5AufqSSqeM2qN1xzybapC8G4wEGGkZwyTDt1v", "0x833589fCD6eDb6E08f4c7C32D4f71b54bdA02913"
BASE = 8453
USER, WALLET, EVM_WALLET = (
    "u1",
    "7YttLkHDoNj9wyDur5pM1ejNaAvT9X4eqaYcHQqtj2G5",
    "0x52908400098527886E0F7030069857D2E4169EE7",
)
PROFILE, FEED = "p1", "f1"
INSTRUMENTS = (
    Tradable(symbol=SOL, price=152_310, decimals=3, tick=10, size_decimals=9, typical=4_000_000_000),
    Tradable(symbol=BONK, price=2_415_000, decimals=11, tick=1_000, size_decimals=5, typical=900_000_000_000),
    Tradable(symbol=WETH, price=344_125, decimals=2, tick=5, size_decimals=18, typical=200_000_000_000_000_000),
)
AUTOMATED = 6
_NAMES = {SOL: ("Wrapped SOL", "SOL"), BONK: ("Bonk", "BONK"), WETH: ("Wrapped Ether", "WETH")}
_NOTICES = (
    "transfer",
    "approval",
    "automation",
    "strategy",
    "claim",
    "cleanup",
    "svmNonce",
    "crosschainSwap",
    "perpsOrder",
)
_SLOT_NS = 400_000_000
_START_BALANCE = 5_000_000_000_000


class Happening(NamedTuple):
    """One event of a stream: ``filter`` has the filter's values in the filter's order."""

    stream: str
    filter: tuple[str, ...]
    payload: Payload


@frozen
class Block:
    """An instant on the simulated networks."""

    now_ns: int

    @property
    def seconds(self) -> int:
        return self.now_ns // 1_000_000_000

    @property
    def millis(self) -> int:
        return self.now_ns // 1_000_000

    @property
    def number(self) -> int:
        return self.now_ns // _SLOT_NS


@frozen(kw_only=True)
class Prices:
    """A swap's price and value, as texts in USD and in the network's coin, and what was paid in smallest units."""

    usd: str
    value_usd: str
    coin: str
    value_coin: str
    lamports: int
    micro_usd: int


class Chain:
    """Both networks, their feeds and the user.

    Args:
        seed: of everything that is drawn.
        start_ns: Unix nanoseconds at which it begins.
    """

    def __init__(self, *, seed: int, start_ns: int) -> None:
        self.market = Market(INSTRUMENTS, seed=seed, start_ns=start_ns)
        self._random = Random(seed)
        self._steps = 0
        self._swaps = 0
        self._balances: dict[tuple[str, str], int] = {}
        self._curves: list[str] = []

    def step(self, now_ns: int) -> Iterator[Happening]:
        """Let everything go on once."""
        self._steps += 1
        block = Block(now_ns)
        for move in self.market.step(now_ns):
            if isinstance(move, Printed):
                wallet = f"Maker{self._random.randrange(9)}" if move.symbol != WETH else EVM_WALLET
                yield from self.swap(block, move.symbol, move.side, move.size, wallet)
        yield from self._pools(block)
        if self._steps % 4 == 0:
            yield from self._message(block)
        if self._steps % 5 == 0:
            yield from self._curve(block)
        if self._steps % 3 == 0:
            yield self._notice()
        if self._steps % AUTOMATED == 0:
            yield from self.buy(block, BONK, 250_000_000_000)

    def buy(self, block: Block, token: str, size: int) -> Iterator[Happening]:
        """Buy as the user's automation does: its task is reported before and after, and the swap is public like any
        other.
        """
        task = {"taskId": f"task_{self._steps}", "userId": USER}
        yield Happening("automation.updates", (), {"type": "automation", **task})
        yield from self.swap(block, token, Side.BUY, size, WALLET)
        yield Happening("automation.updates", (), {"type": "swap", **task, "chainId": 101})
        yield Happening("portfolio.notifications", (), {"type": "swap", **task, "chainId": 101})

    # --- swaps and balances ------------------------------------------------------------------------------------------

    def swap(self, block: Block, token: str, side: Side, size: int, wallet: str) -> Iterator[Happening]:
        """Exchange ``size`` smallest units of the token at the best price."""
        self._swaps += 1
        make = self._evm_swap if token == WETH else self._svm_swap
        yield make(block, token, side is Side.BUY, size, wallet)
        yield from self._moved(block, token, size if side is Side.BUY else -size, wallet)
        if self._swaps % 4 == 0:
            yield from self._signals(block, token)

    def _prices(self, token: str, size: int, buys: bool) -> Prices:
        coin = self.market.instrument(WETH if token == WETH else SOL)
        instrument, quote, rate = (
            self.market.instrument(token),
            self.market.quote(token),
            self.market.quote(coin.symbol).bid,
        )
        price = quote.ask if buys else quote.bid
        value = price * size
        scale = 10 ** (instrument.decimals + instrument.size_decimals)
        coins = value * 10 ** (coin.decimals + coin.size_decimals) // (rate * scale)
        price_in_coins = price * 10 ** (coin.decimals + 18) // (rate * 10**instrument.decimals)
        return Prices(
            usd=instrument.price_text(price),
            value_usd=plain(value // 10**instrument.size_decimals, instrument.decimals),
            coin=plain(price_in_coins, 18),
            value_coin=coin.size_text(coins),
            lamports=coins,
            micro_usd=value * 10**6 // scale,
        )

    def _svm_swap(self, block: Block, token: str, buys: bool, size: int, wallet: str) -> Happening:
        prices = self._prices(token, size, buys)
        payload: Payload = {
            "tokenMint": token,
            "signature": f"sig{self._swaps}",
            "slot": block.number,
            "blockTime": block.seconds,
            "isBuy": buys,
            "sizeSol": prices.value_coin,
            "sizeUsd": prices.value_usd,
            "priceUsd": prices.usd,
            "priceSol": prices.coin,
            "network": "sol",
        }
        if self._swaps % 10:  # the optional members, which now and then are not there
            mine = (token, self.market.instrument(token).size_decimals, size)
            other = (USDC, 6, prices.micro_usd) if token == SOL else (SOL, 9, prices.lamports)
            (mint_in, decimals_in, amount_in), (mint_out, decimals_out, amount_out) = (
                (other, mine) if buys else (mine, other)
            )
            payload |= {
                "maker": wallet,
                "inputMint": mint_in,
                "outputMint": mint_out,
                "inputDecimals": decimals_in,
                "outputDecimals": decimals_out,
                "amountIn": amount_in,
                "amountOut": amount_out,
                "poolAddress": f"Pool{_NAMES[token][1]}",
                "fees": {"gasLamports": 5000, "computeUnitsConsumed": 81_234},
                "simulated": True,
            }
        return Happening("svm.token.swaps", (token,), payload)

    def _evm_swap(self, block: Block, token: str, buys: bool, size: int, wallet: str) -> Happening:
        prices = self._prices(token, size, buys)
        token_in, token_out = (EVM_USDC, token) if buys else (token, EVM_USDC)
        amount_in, amount_out = (prices.micro_usd, size) if buys else (size, prices.micro_usd)
        payload = {
            "tokenAddress": token,
            "txHash": f"0x{self._swaps:064x}",
            "chainId": BASE,
            "blockNumber": block.number,
            "timestamp": block.seconds,
            "isBuy": buys,
            "amountNative": prices.value_coin,
            "amountUsd": prices.value_usd,
            "priceNative": prices.coin,
            "priceUsd": prices.usd,
            "tokenDecimals": 18,
            "tokenInAddress": token_in,
            "tokenOutAddress": token_out,
            "amountIn": str(amount_in),
            "amountOut": str(amount_out),
            "maker": wallet,
            "network": "base",
        }
        return Happening("evm.token.swaps", (str(BASE), token), payload)

    def _moved(self, block: Block, token: str, change: int, wallet: str) -> Iterator[Happening]:
        """Send the balances that a swap leaves to those who watch the token and those who watch the wallet."""
        decimals = self.market.instrument(token).size_decimals
        if token == WETH:
            held, coins = self._balance(wallet, token, change)[1], self._balance(wallet, "native", -21_000)[1]
            about: Payload = {"owner": wallet, "chainId": BASE, "blockNumber": block.number, "blockTime": block.seconds,
                              "network": "base"}  # fmt: skip
            payload = {"tokenAddress": token, "decimals": decimals, **about, "balance": str(held)}
            yield Happening("evm.token.balances", (str(BASE), token), payload)
            yield Happening("evm.wallet.tokenBalances", (wallet,), payload)
            yield Happening("evm.wallet.nativeBalance", (wallet,), {**about, "balance": str(coins)})
            return
        about = {"owner": wallet, "slot": block.number, "blockTime": block.seconds, "network": "sol"}
        before, after = self._balance(wallet, token, change)
        payload = {"mint": token, **about, "decimals": decimals, "preBalance": before, "postBalance": after}
        before, after = self._balance(wallet, "native", -5_000)
        yield Happening("svm.token.balances", (token,), payload)
        yield Happening("svm.wallet.tokenBalances", (wallet,), payload)
        yield Happening("svm.wallet.nativeBalance", (wallet,), {**about, "preBalance": before, "postBalance": after})

    def _balance(self, wallet: str, token: str, change: int) -> tuple[int, int]:
        before = self._balances.get((wallet, token), _START_BALANCE)
        after = self._balances[wallet, token] = max(0, before + change)
        return before, after

    # --- facts -------------------------------------------------------------------------------------------------------

    def _pools(self, block: Block) -> Iterator[Happening]:
        for instrument in self.market.instruments:
            token, (name, symbol) = instrument.symbol, _NAMES[instrument.symbol]
            price = instrument.price_text(self.market.quote(token).last)
            payload: Payload = {"tokenAddress": token, "tokenName": name, "tokenSymbol": symbol,
                                "tokenDecimals": instrument.size_decimals, "priceUsd": price,
                                "timestampUpdatedMs": block.millis}  # fmt: skip
            if token == WETH:
                evm = {"chainId": BASE, "blockNumber": block.number, "network": "base", "liquidityUsd": "1250000.50"}
                yield Happening("evm.token.poolInfo", (str(BASE), token), payload | evm)
                continue
            yield Happening("svm.token.poolInfo", (token,), payload | {"blockIndex": block.number, "network": "sol"})
            if self._steps % 5 == 0:
                about = {"tokenAddress": token, "network": "sol", "blockIndex": block.number}
                holders = {"holderCount": 900_000 + self._steps, "top10Pct": "12.5"}
                yield Happening("svm.token.holderStats", (token,), {**about, "stats": holders})
                yield Happening("svm.token.distributionStats", (token,), about)

    def _curve(self, block: Block) -> Iterator[Happening]:
        """Create a token on a bonding curve; the third oldest leaves it for a pool."""
        token = f"Curve{self._steps}pump"
        self._curves.append(token)
        about = {"signature": f"curve{self._steps}", "slot": block.number, "blockTime": block.seconds,
                 "blockHeight": block.number - 1_000, "blockHash": f"hash{block.number}", "network": "sol"}  # fmt: skip
        created = {"tokenAddress": token, "curveAddress": f"{token}Curve", "curveDexType": "pumpfun"}
        yield Happening(
            "svm.bondingCurve.creations", (), {**created, "creator": WALLET, **about, "transactionIndex": 7}
        )
        if len(self._curves) > 2:
            token = self._curves.pop(0)
            left = {"tokenAddress": token, "curveAddress": f"{token}Curve", "curveDexType": "pumpfun"}
            pool = {"destPoolAddress": f"{token}Pool", "destPoolDexType": "pumpswap"}
            yield Happening("svm.bondingCurve.graduations", (), {**left, **pool, **about})

    # --- feeds and notifications -------------------------------------------------------------------------------------

    def _signals(self, block: Block, token: str) -> Iterator[Happening]:
        network = "base" if token == WETH else "sol"
        name, symbol = _NAMES[token]
        source = {"walletAddress": WALLET, "txSignature": f"sig{self._swaps}", "isBuy": True, "amountUsd": "2500.75",
                  "amountNative": "16.4"}  # fmt: skip
        signal = {"id": f"signal_{self._swaps}", "timestampMs": block.millis, "isBot": False, "priceUsd": 152.31,
                  "priceNative": 1, "marketcapUsd": 1e9, "liquidityUsd": 250000.5,
                  "source": {"sourceType": "trade", "source": source}}  # fmt: skip
        about = {"tokenAddress": token, "network": network, "latestSignal": signal,
                 "tokenMeta": {"address": token, "network": network, "symbol": symbol, "name": name}}  # fmt: skip
        yield Happening("alpha.signalFeedGlobal", (), {"type": "globalSignalFeedUpdate", **about})
        yield Happening("alpha.signalFeedPersonal", (), {"type": "personalSignalFeedUpdate", **about})
        profile = {"type": "profileSignalFeedUpdate", **about, "profileId": PROFILE}
        yield Happening("alpha.signalFeedProfile", (PROFILE,), profile)
        yield Happening("alpha.signalFeedNamed", (FEED,), {"type": "namedSignalFeedUpdate", **about, "feedId": FEED})

    def _message(self, block: Block) -> Iterator[Happening]:
        platform = ("discord", "telegram", "x", "call")[self._steps // 4 % 4]
        if platform == "call":
            mention = {"messageId": f"m{self._steps}", "platform": "discord", "timestampMs": block.millis}
            call = {"type": "callReference", "address": BONK, "firstSeenAtMs": block.millis - 1,
                    "lastSeenAtMs": block.millis, "mentionCount": 1, "mentions": [mention]}  # fmt: skip
            yield Happening("alpha.personal", (), call)
            return
        ids: dict[str, Payload] = {
            "discord": {"messageId": f"m{self._steps}", "guildId": "g1", "channelId": "c1", "isEdited": False},
            "telegram": {"messageId": f"m{self._steps}", "chatId": "c1", "isEdited": False},
            "x": {"tweetId": f"m{self._steps}", "hashtags": [], "cashtags": ["$BONK"], "mentions": [], "mediaUrls": []},
        }
        said = {"content": "gm, $BONK looks ready", "timestamp": block.millis, "isDeleted": False,
                "tokens": [{"address": BONK, "chain": "solana"}]}  # fmt: skip
        message = {"platform": platform, "data": {**ids[platform], **said}}
        yield Happening("alpha.personal", (), message)
        yield Happening("alpha.signalFeedNamed", (FEED,), {"type": "feedMessage", "feedId": FEED, "message": message})

    def _notice(self) -> Happening:
        kind = _NOTICES[self._steps // 3 % len(_NOTICES)]
        about = {"strategy": "rootTaskId", "claim": "claimId"}.get(kind, "taskId")
        return Happening("portfolio.notifications", (), {"type": kind, about: f"{kind}_{self._steps}", "userId": USER})
