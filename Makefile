# Two commands for a newcomer (demo, test), one for a contributor (check).
# Each makes its own .venv, with uv where it is installed and pip elsewhere.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Two files at once, each whole in one process: a process has one Ray.
PYTEST := -m pytest -n 2 --dist loadfile
# uv ignores pip's configuration: hand it the person's wheel folder, if there is one.
export UV_FIND_LINKS := $(or $(UV_FIND_LINKS),$(PIP_FIND_LINKS))
export RAY_USAGE_STATS_ENABLED ?= 0

.PHONY: demo test check format clean help

help:
	@echo "make demo    environment, a sweep on real text on this CPU, report"
	@echo "make test    environment, every test"
	@echo "make check   format, lint, types, import contracts, tests"

demo: $(VENV)/.sweep
	$(BIN)/isoflop run tuner/sweeps/demo.toml --yes --dir runs/demo

test: $(VENV)/.dev
	$(BIN)/python $(PYTEST)

check: $(VENV)/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyrefly check
	$(BIN)/lint-imports
	$(BIN)/python $(PYTEST)

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .import_linter_cache .hypothesis

define install
	@if command -v uv >/dev/null; then \
	    test -x $(BIN)/python || uv venv --python $(PYTHON) $(VENV); \
	    uv pip install --python $(BIN)/python -e '.[$(1)]'; \
	else \
	    test -x $(BIN)/python || $(PYTHON) -m venv $(VENV); \
	    $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(1)]'; \
	fi
	@touch $@
endef

$(VENV)/.sweep: pyproject.toml
	$(call install,sweep)

$(VENV)/.dev: pyproject.toml
	$(call install,$(strip sweep,serve,dev))
