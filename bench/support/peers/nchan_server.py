"""nginx with nchan: this process only posts what is to be published, as an application would; nginx does the work.

Run with the directory of its configuration as the argument. Commands as of relay_under_test.py.
"""

import http.client
import sys
import time

HEAD, TAIL = '{"event":"tick","channel":"ticks","data":"', '"}'
port = int(sys.argv[1])
connection = http.client.HTTPConnection("127.0.0.1", port)


def publish(text: str) -> None:
    connection.request("POST", "/publish", text, {"Content-Type": "text/plain"})
    connection.getresponse().read()


def tick(rounds: int, batch: int, pause: int, size: int) -> None:
    text = HEAD + "." * (size - len(HEAD) - len(TAIL) - (2 if size < 128 else 4)) + TAIL
    for _ in range(rounds):
        for _ in range(batch):
            publish(text)
        time.sleep(pause / 1e6)


def stamped(rate: int, seconds: int) -> None:
    start = time.perf_counter()
    for number in range(rate * seconds):
        time.sleep(max(0, start + number / rate - time.perf_counter()))
        publish(f"{HEAD}T={time.monotonic_ns():019}{'.' * 130}{TAIL}")


print("listening", port, flush=True)
for line in sys.stdin:
    name, *numbers = line.split()
    {"tick": tick, "stamped": stamped}[name](*map(int, numbers))
    print("done", flush=True)
