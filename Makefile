# Everything sets itself up: a machine with Python 3.11+ and make needs nothing else.
#
#   make demo    the relay on simulated providers, with a dashboard at http://127.0.0.1:6001/
#   make test    all tests, with the same examples every time; fetches the Node.js packages if npm is there, and says at the end
#                how many tests were skipped and why
#   make fuzz    the property tests with many random examples; write one that fails into its test, with @example
#   make fuzz-relay SECONDS=3600   the whole running relay under random input for so long
#   make check   ruff, flake8-async, mypy --strict, docs build
#   make bench   the benches

PYTHON ?= python3
UV_VERSION := 0.13.8
UV := .uv/bin/uv
BIN := .venv/bin
# Many tests wait for real sockets, so three at a time are no hurry even for two cores.
PROCESSES ?= 3
# Tests start many processes; one that finds its bytecode starts in half the time.
unexport PYTHONDONTWRITEBYTECODE
export UV_PYTHON_DOWNLOADS := never
export UV_PROJECT_ENVIRONMENT := .venv

# Advice that is none of ours: names of startable parameters (114), a successor of httpx (127), checkpoints everywhere (9xx).
# ruff finds scopes without a checkpoint (100) and lost tasks (300, as RUF006); a rule less here is a pass less over every file.
ASYNC_ADVICE := ASYNC100,ASYNC114,ASYNC127,ASYNC300,ASYNC9
# Tests and benches poll what has no event (110), need not await (124, 128), and speak asyncio to peers (106, 120).
ASYNC_IN_TESTS := ASYNC106,ASYNC110,ASYNC120,ASYNC124,ASYNC128
# flake8-async builds a syntax tree for each file and each rule: only files with async code, a few at a time, on every core.
WITH_ASYNC := xargs grep -lwE 'async|asyncio'
FLAKE8_ASYNC := xargs -n 12 -P $(shell nproc) $(BIN)/flake8-async

.PHONY: demo test fuzz fuzz-relay check lint types docs bench wheel clean node

demo: .venv/.runtime
	@echo "starting the demo; it is ready when it prints its addresses"
	$(BIN)/tickrelay demo $(ARGS)

test: .venv/.developer
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory node || echo "npm could not fetch the packages of tests/node: their tests are skipped"; \
	else echo "npm is missing: the tests that need its packages are skipped"; fi
	$(BIN)/pytest --numprocesses $(PROCESSES) --dist worksteal $(ARGS)

fuzz: .venv/.developer
	$(BIN)/pytest --numprocesses $(PROCESSES) --hypothesis-profile fuzz --timeout 0 -m hypothesis $(ARGS)

SECONDS ?= 3600
fuzz-relay: .venv/.developer
	cd tests && ../$(BIN)/python -W ignore -m hostile.fuzz_for $(SECONDS)

check: .venv/.developer
	$(MAKE) --no-print-directory --jobs 3 --output-sync=target lint types docs

lint: .venv/.developer
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	find relay adapters plugins -name '*.py' | $(WITH_ASYNC) | $(FLAKE8_ASYNC) --disable=$(ASYNC_ADVICE)
	find tests bench -name '*.py' -not -path '*/node_modules/*' | $(WITH_ASYNC) | $(FLAKE8_ASYNC) --disable=$(ASYNC_ADVICE),$(ASYNC_IN_TESTS)

types: .venv/.developer
	$(BIN)/mypy

docs: .venv/.developer
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html

bench: .venv/.developer
	for bench in bench/[a-z]*.py; do $(BIN)/python $$bench || exit 1; done

# The JavaScript client libraries that judge the protocol.
node: tests/node/node_modules/.ready
tests/node/node_modules/.ready: tests/node/package.json tests/node/package-lock.json
	cd tests/node && npm ci --fetch-retries 1 --no-audit --no-fund --ignore-scripts
	touch $@

wheel: $(UV)
	$(UV) build --wheel

.venv/.runtime: $(UV) pyproject.toml uv.lock
	$(UV) sync --frozen --inexact --no-default-groups --python $(PYTHON)
	touch $@

.venv/.developer: $(UV) pyproject.toml uv.lock
	$(UV) sync --frozen --inexact --all-extras --python $(PYTHON)
	touch $@ .venv/.runtime

$(UV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "tickrelay needs Python 3.11 or newer, $(PYTHON) is " + sys.version.split()[0])'
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	touch $@

clean:
	rm -rf .venv .uv build dist docs/_build tests/node/node_modules
