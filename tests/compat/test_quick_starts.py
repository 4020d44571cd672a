"""What a newcomer runs first, as it stands: the ten-line script of `docs/clients`, and the quick start page of the vendor."""

import json
import shutil
import subprocess
from functools import partial
from pathlib import Path

import pytest
import trio

from support import tools
from support.deadlines import WITHIN
from support.harness import stage
from support.matrix import ROOT
from support.process import serving, started
from support.recordings import load_recording, recording_path

CONFIGURATION = """
allow_inline_secrets = true
[server]
listen = "127.0.0.1:{port}"
[apps.web]
id = 1001
key = "web"
secret = "secret-of-the-test"
[outbox]
messages = 100_000
[providers.binance]
url = "WS"
http_url = "HTTP"
options = { venue = "us" }
[providers.binance.symbols]
CRVUSDT = "CRV/USDT"
"""


@pytest.mark.node
@pytest.mark.recordings
async def test_quotes_of_a_recorded_session_are_printed(tmp_path: Path) -> None:
    recording = load_recording("binance_us.jsonl")
    tickers = [json.loads(record.data) for record in recording.incoming if "crvusdt@bookTicker" in str(record.data)]
    expected = [f"CRV/USDT {ticker['data']['b']} {ticker['data']['a']}" for ticker in tickers]
    assert expected

    shutil.copy(ROOT / "docs" / "clients" / "quotes.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(tools.NODE_DIR / "node_modules")
    play = ["play", str(recording_path("binance_us.jsonl")), "--listen", "127.0.0.1:0", "--speed", "100"]
    async with started(*play, until="playing", stream="stdout") as (_, line):
        ws, http = line.split(" at ")[1].split(" and ")
        configuration = CONFIGURATION.replace("WS", ws).replace("HTTP", http.strip())
        async with serving(tmp_path, configuration) as (_, port), trio.open_nursery() as nursery:
            environment = {"RELAY_PORT": str(port), "RELAY_CHANNEL": "quote.binance.CRV-USDT"}
            script = partial(trio.run_process, [tools.node(), "quotes.mjs"], cwd=tmp_path, env=environment, check=False)
            process = await nursery.start(partial(script, stdout=subprocess.PIPE))
            printed = b""
            with trio.move_on_after(WITHIN):
                while printed.count(b"\n") < len(expected):
                    printed += await process.stdout.receive_some()
            nursery.cancel_scope.cancel()
    assert printed.decode().splitlines() == expected


#: The page of the vendor's quick start. Only what an own server needs is changed: host and port, and no TLS.
QUICK_START = """<!DOCTYPE html>
<head>
  <title>Pusher Test</title>
  <script src="SCRIPT"></script>
  <script>
    Pusher.logToConsole = true;

    var pusher = new Pusher('app-key', {
      cluster: 'mt1', wsHost: '127.0.0.1', wsPort: PORT, forceTLS: false
    });

    var channel = pusher.subscribe('my-channel');
    channel.bind('my-event', function(data) {
      alert(JSON.stringify(data));
    });
  </script>
</head>
<body>
  <h1>Pusher Test</h1>
  <p>
    Try publishing an event to channel <code>my-channel</code>
    with event name <code>my-event</code>.
  </p>
</body>
"""


@pytest.mark.browser
async def test_the_vendors_quick_start_page_works(browser: int) -> None:
    async with stage(browser) as s:
        page = await s.client("chromium")
        html = QUICK_START.replace("SCRIPT", "pusher.js").replace("PORT", str(s.port))
        await page.do("page", html=html, url=f"http://127.0.0.1:{s.port}/judge/")
        with trio.fail_after(WITHIN):
            while not s.relay.hub.channel_info("7", "my-channel", 0).occupied:
                await trio.sleep(0.01)
        s.publish("my-channel", {"message": "hello world"}, name="my-event")
        assert (await page.wait(lambda line: line["on"] == "dialog"))["text"] == '{"message":"hello world"}'
