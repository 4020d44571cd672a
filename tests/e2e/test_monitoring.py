"""The files that are shipped to watch and to deploy a relay: its metrics are those of a running one, its files are what their tools take."""

import json
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx
import trio
import yaml
from prometheus_client.parser import text_string_to_metric_families
from trio_websocket import open_websocket_url, wrap_client_stream

from relay.demo import provider_table
from relay.histogram import Histogram
from relay.plugins import RelayApi, Service, hookimpl
from relay.server.api.metrics import Measured
from relay_helio.simulator import SIMULATED, HelioSimulator
from support.api_harness import BEARER, Rig
from support.deadlines import WITHIN
from support.running import API_KEY, APP, port_of, running_relay
from support.tls import self_signed
from support.tools import missing

DOCS = Path(__file__).parents[2] / "docs"
RULES = DOCS / "monitoring/alerts.yml"
DASHBOARD = DOCS / "monitoring/grafana.json"
Labels = dict[str, set[str]]
"""Names of labels by the name of the sample."""


def labels_of(text: str) -> Labels:
    """Return the labels of each sample in the text of /metrics."""
    found: Labels = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


class Counting:
    """A plugin with two services: one that counts, and one that fails when it is asked what it counted."""

    @hookimpl
    def relay_services(self) -> Iterable[Service]:
        def failing() -> Mapping[tuple[str, str], float]:
            raise RuntimeError("no figures")

        yield Service("counts", self.run, counts=lambda: {("crm", "sent"): 3}, levels=lambda: {("crm", "waiting"): 1})
        yield Service("fails", self.run, counts=failing)

    async def run(self, relay: RelayApi) -> None:
        await trio.sleep_forever()


async def metrics_of_a_relay(directory: Path) -> Labels:
    """Run a relay with a simulated broker, a subscriber and an order; return what it tells of it."""
    simulator = HelioSimulator(seed=1)
    async with simulator.serve() as address:
        helio = {**provider_table(SIMULATED, address.ws, address.http), "pinned": ["account main", "quote EUR/USD"]}
        keys = {"desk": {"key": API_KEY, "trade": ["helio.main"], "accounts": ["helio.main"]}}
        store = {"url": f"sqlite:///{directory}/relay.sqlite3"}
        limited = {"adapter": "binance", "url": "ws://127.0.0.1:1", "required": False}  # nobody wants anything of it
        more: dict[str, Any] = {"api_keys": keys, "store": store, "stranger": Counting()}
        async with running_relay({"helio": helio, "binance": limited}, **more) as relay:
            with trio.fail_after(WITHIN):
                while relay.providers.statuses()[0]["state"] != "up":
                    await trio.sleep(0.01)
                base = f"127.0.0.1:{port_of(relay)}"
                headers = {"Authorization": f"Bearer {API_KEY}"}
                async with (
                    httpx.AsyncClient(base_url=f"http://{base}", headers=headers, timeout=WITHIN) as http,
                    open_websocket_url(f"ws://{base}/app/{APP['key']}?protocol=7") as socket,
                ):
                    join = {"event": "pusher:subscribe", "data": {"channel": "quote.helio.EUR-USD"}}
                    await socket.send_message(json.dumps(join))
                    relay.hub.budgets.count_closed("refusals")
                    while json.loads(await socket.get_message())["event"] != "quote":
                        pass
                    order = {"command": "place_order", "symbol": "EUR/USD", "side": "BUY", "order_type": "MARKET"}
                    answer = await http.post("/api/v2/commands", json={"provider": "helio", "quantity": "1", **order})
                    assert answer.json()["outcome"] == "accepted", answer.text
                    text = (await http.get("/metrics")).text
                    assert 'tickrelay_service_counts_total{of="crm",service="counts",what="sent"} 3.0' in text
                    assert 'tickrelay_service_level{of="crm",service="counts",what="waiting"} 1.0' in text
                    assert relay.snapshot()["plugins"]["failures"] == {"stranger": 1}
                    return labels_of(text)
    raise AssertionError


async def metrics_of_a_cluster() -> Labels:
    """Return the metrics of a relay whose store is a cluster's, and whose log is that of `tickrelay serve`."""
    positions = {"market": [7, 12], "durable": [7, 2]}
    about = {"fence": 7, "lease_left": 2.5, "loads": 1, "suspected": "", "positions": positions, "owner": "a-1"}
    providers = [{"provider": "helio", "owns": True, "market_waiting": 3, **about}]
    nodes = {"a-1": {"state": "UP", "read": {"helio": [7, 14]}}}
    rig = Rig(
        store=lambda: {"available": True, "waiting": 3, "cluster": {"providers": providers, "nodes": nodes}},
        measured=Measured(log_counts=lambda: {"lost": 0, "withheld": 0}, round_trips=Histogram()),
    )
    book = {"provider": "binance", "account": None, "state": "up", "reason": None, "counters": {"dropped": {"book": 1}}}
    rig.sessions = [book]
    async with rig.http:
        return labels_of((await rig.http.get("/metrics", headers=BEARER)).text)


def expressions() -> Iterator[str]:
    """Yield every expression of the rules and of the dashboard."""
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        yield from (rule["expr"] for rule in group["rules"])
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["query"]["query"]


async def test_every_metric_and_label_that_is_watched_is_one_of_a_running_relay(tmp_path: Path) -> None:
    known = {**await metrics_of_a_cluster(), **await metrics_of_a_relay(tmp_path)}
    watched = {name for expression in expressions() for name in re.findall(r"\b(?:tickrelay|process)_\w+", expression)}
    assert len(watched) > 35
    unknown = sorted(watched - known.keys())
    assert not unknown
    for expression in expressions():
        for name, matchers in re.findall(r"\b((?:tickrelay|process)_\w+)\{(.*?)\}", expression):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
            assert not asked - known[name] - {"instance", "job"}, expression
    documented = (DOCS / "monitoring.md").read_text()
    for name in known:
        short = re.sub(r"_(bucket|sum|count|created)$", "", name)
        assert name.startswith("process_") or f"`{short}`" in documented, f"docs/monitoring.md lacks {short}"


def test_each_alert_has_its_part_of_the_runbook_and_the_runbook_no_others() -> None:
    rules = [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]
    names = [rule["alert"] for rule in rules]
    for rule in rules:
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["runbook"] == f"monitoring.md#{rule['alert'].lower()}"
    runbook = (DOCS / "monitoring.md").read_text().partition("## Runbook")[2]
    assert re.findall(r"^### (\w+)$", runbook, re.M) == names


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    panels = json.loads(DASHBOARD.read_text())["panels"]
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels}) == len(panels)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    """Run a tool and return what it said."""
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=WITHIN, check=False)


def found(program: str) -> str:
    """Return the path of a program, which Debian has in /usr/sbin too."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    if path is None:
        missing(program)
    return path or ""


def test_prometheus_takes_the_rules_and_the_scrape() -> None:
    promtool = found("promtool")
    for check in (["rules", RULES], ["config", "--syntax-only", DOCS / "monitoring/prometheus.yml"]):
        done = run(promtool, "check", *check)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_fires_when_it_should(tmp_path: Path) -> None:
    """Prometheus' own tests of rules: see docs/monitoring and the series beside this file."""
    promtool = found("promtool")
    shutil.copy(RULES, tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    done = run(promtool, "test", "rules", tmp_path / "alerts_test.yml")
    assert done.returncode == 0, done.stdout + done.stderr


def test_systemd_takes_the_unit(tmp_path: Path) -> None:
    analyze = found("systemd-analyze")
    unit = tmp_path / "tickrelay.service"
    text = (DOCS / "deploy/tickrelay.service").read_text()
    assert "ExecStart=/opt/tickrelay/bin/tickrelay serve" in text
    assert "sqlite:////var/lib/tickrelay/" in text, "with three slashes it is relative to the configuration"
    unit.write_text(text.replace("/opt/tickrelay/bin/tickrelay", "/bin/true"))
    done = run(analyze, "verify", unit)
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert not complaints, done.stderr


NGINX = """
daemon off;
error_log stderr;
pid {folder}/nginx.pid;
events {{ worker_connections 64; }}
http {{
    access_log off;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi; scgi_temp_path {folder}/scgi;
    include {folder}/tickrelay.conf;
}}
"""


def nginx_files(folder: Path, relay_port: int, plain: str, tls: str) -> Path:
    """Write the documented configuration with ports and a certificate of the test; return the whole one's file.

    It listens on sockets in the folder: between the choice of a port and its use others could take it.
    """
    certificate, key = self_signed(folder, "DNS:relay.example.com")
    text = (DOCS / "deploy/nginx.conf").read_text()
    changes = {
        "    listen [::]:80;\n": "",
        "    listen [::]:443 ssl;\n": "",
        "listen 80;": f"listen {plain};",
        "listen 443 ssl;": f"listen {tls} ssl;",
        "127.0.0.1:6001": f"127.0.0.1:{relay_port}",
        "/etc/letsencrypt/live/relay.example.com/fullchain.pem": str(certificate),
        "/etc/letsencrypt/live/relay.example.com/privkey.pem": str(key),
    }
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "tickrelay.conf").write_text(text)
    whole = folder / "nginx.conf"
    whole.write_text(NGINX.format(folder=folder))
    return whole


async def test_a_websocket_and_requests_pass_nginx_as_it_is_documented() -> None:
    """TLS ends at nginx; the relay learns the client's address and scheme, and a WebSocket goes both ways."""
    nginx = found("nginx")
    app = {**APP, "require_tls": True}
    server = {"listen": "127.0.0.1:0", "behind_proxy": True, "status_public": True}
    with tempfile.TemporaryDirectory() as name:  # a short one: the path of a socket has 107 characters at most
        folder = Path(name)
        plain, tls = f"{folder}/plain", f"{folder}/tls"
        async with running_relay(server={**server, "hosts": ["relay.example.com"]}, apps={"main": app}) as relay:
            config = nginx_files(folder, port_of(relay), f"unix:{plain}", f"unix:{tls}")
            checked = await trio.to_thread.run_sync(run, nginx, "-t", "-c", config)
            assert checked.returncode == 0, checked.stderr
            async with trio.open_nursery() as nursery:
                process = await nursery.start(trio.run_process, [nginx, "-c", str(config)])
                try:
                    with trio.fail_after(WITHIN):
                        await _talk(folder, plain, tls)
                finally:
                    process.terminate()


async def _talk(folder: Path, plain: str, tls: str) -> None:
    while not await trio.Path(tls).is_socket():
        await trio.sleep(0.01)
    context = ssl.create_default_context(cafile=str(folder / "cert.pem"))
    stream = trio.SSLStream(await trio.open_unix_socket(tls), context, server_hostname="relay.example.com")
    async with trio.open_nursery() as nursery:
        socket = await wrap_client_stream(nursery, stream, "relay.example.com", f"/app/{APP['key']}?protocol=7")
        assert json.loads(await socket.get_message())["event"] == "pusher:connection_established"
        await socket.send_message(json.dumps({"event": "pusher:ping", "data": {}}))
        assert json.loads(await socket.get_message())["event"] == "pusher:pong"
        await socket.aclose()
        nursery.cancel_scope.cancel()
    transport = httpx.AsyncHTTPTransport(uds=tls, verify=context)
    async with httpx.AsyncClient(transport=transport, base_url="https://relay.example.com") as http:
        assert (await http.get("/readyz")).json() == {"status": "ready"}
        assert (await http.get("/metrics")).status_code == 404
    async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=plain)) as http:
        moved = await http.get("http://relay.example.com/app/x")
        assert (moved.status_code, moved.headers["location"]) == (308, "https://relay.example.com/app/x")


INSTRUCTION = re.compile(r"^([A-Z]+) ((?:.*\\\n)*.*)$", re.M)


def container_steps(folder: Path) -> dict[str, list[str]]:
    """Return what the Containerfile runs, by instruction, with the folder in place of the container's root.

    No container engine is needed: users, volumes and the base image are the engine's own.
    """
    text = (DOCS / "deploy/Containerfile").read_text().replace("/src", str(DOCS.parent))
    for path in ("/opt/tickrelay", "/etc/tickrelay"):
        assert path in text
        text = text.replace(path, f"{folder}{path}")
    steps: dict[str, list[str]] = {}
    for name, words in INSTRUCTION.findall(text):
        steps.setdefault(name, []).append(words.replace("\\\n", " ").strip())
    return steps


IN_CONTAINER = """
[server]
listen = "127.0.0.1:0"
[apps.main]
id = "1"
key = "key-of-the-container"
secret = { env = "APP_SECRET" }
[providers.venue]
adapter = "synthetic"
url = "ws://127.0.0.1:9/"
http_url = "http://127.0.0.1:9/"
"""


def test_the_containers_steps_install_a_relay_that_its_health_check_finds(tmp_path: Path) -> None:
    """The steps as they are written, in a fresh environment; needs the package index."""
    steps = container_steps(tmp_path)
    assert steps["STOPSIGNAL"] == ["SIGTERM"]
    build = steps["RUN"][0]
    assert build.startswith("python -m venv ")
    built = run("sh", "-ec", f"{sys.executable}{build.removeprefix('python')}")
    if "No matching distribution found" in built.stderr:
        missing("the package index")
    assert built.returncode == 0, built.stderr

    configuration = tmp_path / "etc/tickrelay/tickrelay.toml"
    configuration.parent.mkdir(parents=True)
    configuration.write_text(IN_CONTAINER)
    command = [*json.loads(steps["ENTRYPOINT"][0]), *json.loads(steps["CMD"][0])]
    options, _, words = steps["HEALTHCHECK"][0].partition(" CMD ")
    assert "--interval=" in options
    with subprocess.Popen(
        command, cwd=tmp_path, env={"APP_SECRET": "secret-of-the-container"}, stderr=subprocess.PIPE, text=True
    ) as relay:
        try:
            assert relay.stderr is not None
            printed = ""
            for line in relay.stderr:
                printed += line
                if found_at := re.search(r"listening.*127\.0\.0\.1\D+(\d+)", line):
                    break
            else:
                raise AssertionError(printed)
            assert "127.0.0.1:6001" in words  # the port of the documentation; here the kernel chose one
            check = json.loads(words.replace("127.0.0.1:6001", f"127.0.0.1:{found_at[1]}"))
            healthy = run(*check)
            assert healthy.returncode == 0, healthy.stderr
            relay.terminate()
            relay.stderr.read()
            assert relay.wait(WITHIN) == 0
        finally:
            relay.kill()
    assert run(*check).returncode != 0
