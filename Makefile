# The same words for a person and for CI. `make run` is all that a newcomer needs.

# The first Python that runs (a name on PATH may be an empty shim) and can make environments, those first that can carry
# the embedded server; python3 says what is wrong.
FITS = import ensurepip, sys, venv; sys.version_info >= (3, 11) and print(sys.executable)
ifndef PYTHON
PYTHON := $(firstword $(foreach name,python3.12 python3.11 python3,$(shell $(name) -c "$(FITS)" 2>/dev/null)) python3)
endif
BIN := .venv/bin
export SLIPWAY_TEST_HOME = $(TEST_HOME)
TEST_HOME ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/slipway-test

.PHONY: run setup test check format bench lock check-releases clean

run: .venv/panel        ## install what is missing, start the panel with the demo deployment launching
	@$(BIN)/slipway panel $$($(BIN)/python scripts/python_fits.py)

setup: .venv/panel      ## install what is missing, start nothing
	@$(BIN)/slipway setup

test: .venv/tests       ## every test, with a real tritonserver and a real browser
	@$(BIN)/python scripts/test_lanes.py $(ARGS)

check: .venv/tests      ## format, lint, types, spelling, import rules
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/codespell app backends storage scripts tests docs assets/engines assets/runtime/lay_out.py README.md ARCHITECTURE.md
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: .venv/tests
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/tests      ## a line for each figure: name, value, target, met or short
	$(BIN)/python -m scripts.bench

check-releases: .venv/tests   ## is assets/releases.csv consistent with itself
	$(BIN)/python scripts/check_releases.py

lock:                   ## choose the newest versions that pyproject.toml allows (needs uv)
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  pyproject.toml --extra build -o requirements.lock
	uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	  pyproject.toml --all-extras -c requirements.lock -o requirements-dev.lock

clean:
	rm -rf .venv

.venv/panel: requirements.lock pyproject.toml
	@$(PYTHON) scripts/python_fits.py > /dev/null
	@echo "Installing the panel into .venv (about 110 MiB to download, 630 MiB on disk)"
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q app backends storage
	@touch .venv/panel

.venv/tests: .venv/panel requirements-dev.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch .venv/tests
