# Everything needs Python 3.10 or newer and pip only. PYTHON=... names another interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SAMPLE ?= data/samples/park.jpg
QUERY ?= the dog
SOURCES := $(shell find textseg eval -name '*.py' 2>/dev/null)

.PHONY: demo test test-browser lint docs notebook clean

demo: $(VENV)/.user
	$(BIN)/textseg segment $(SAMPLE) -q "$(QUERY)" -o out --format mask,overlay,cutout
	@echo "Mask, overlay and cutout of \"$(QUERY)\" in $(SAMPLE) lie in out/:" && ls out

test: lint
	$(BIN)/python -m pytest

# The studio and the reports in a real browser: a Chromium or Chrome of the system, in TEXTSEG_CHROMIUM or on the path.
test-browser: $(VENV)/.browser
	$(BIN)/python -m pytest tests/browser

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

# The pages of docs/ and the API, to read from site/index.html; needs no network once installed.
docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

# Runs the notebook and keeps what it shows.
notebook: $(VENV)/.docs
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m nbconvert --to notebook --execute --inplace \
		--ExecutePreprocessor.record_timing=False docs/tour.ipynb

clean:
	rm -rf $(VENV) out build dist site .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
		sys.exit(0 if v >= (3, 10) else f"textseg needs Python 3.10 or newer, got {v[0]}.{v[1]}")'
	$(PYTHON) -m venv $(VENV)

# One environment, installed in one of two ways: as a user has it, or editable with the tools.
# Each takes the other's stamp away, so that tests never run an installed copy.
$(VENV)/.user: pyproject.toml $(SOURCES) | $(BIN)/python
	$(BIN)/python -m pip install --quiet .
	@rm -f $(VENV)/.dev && touch $@

$(VENV)/.dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@rm -f $(VENV)/.user && touch $@

$(VENV)/.docs: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	@touch $@

$(VENV)/.browser: $(VENV)/.dev
	$(BIN)/python -m pip install --quiet playwright
	@touch $@
