SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make bench WORKLOAD=poll-500, or several parted by commas; more options in BENCH.
WORKLOAD ?=
BENCH ?=
RUN_TESTS := $(BIN)/python -bb -W error -m coverage run -m tests

.PHONY: help serve test lint docs bench bench-growth profile performance translations clean

help:
	@echo "make serve     serve a sample maildrop on 127.0.0.1:1110"
	@echo "make test      run the whole test suite"
	@echo "make lint      ruff, mypy, and the layers of the packages"
	@echo "make docs      build docs/_build/html, warnings as errors"
	@echo "make bench     measure popserv beside Dovecot and twisted.mail, see benchmarks/README.rst;"
	@echo "               WORKLOAD=poll-500 for one workload, BENCH=--help for options"
	@echo "make bench-growth   how a poll grows with the messages, and memory with connections"
	@echo "make profile   say where popserv spends its time; WORKLOAD and BENCH as above"
	@echo "make performance   all three, for the figures in docs/performance.rst"
	@echo "make translations   compile popserv/core/locale after an edit"
	@echo "make clean     remove what these make"

serve: $(VENV)/serve
	@$(BIN)/python examples/sample_maildrop.py sample
	@exec $(BIN)/twistd --nodaemon --pidfile= pop3 --maildir sample --listen tcp:1110:interface=127.0.0.1

test: $(VENV)/dev
	$(BIN)/python -m coverage erase
	$(RUN_TESTS)
	$(BIN)/python -m coverage combine --quiet
	$(BIN)/python -m coverage report

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

docs: $(VENV)/dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/bench build/load
	@$(BIN)/python benchmarks/run.py $(if $(WORKLOAD),--workload $(WORKLOAD)) $(BENCH)

bench-growth: $(VENV)/bench build/load
	@$(BIN)/python benchmarks/growth.py $(BENCH)

profile: $(VENV)/bench build/load
	@$(BIN)/python benchmarks/profiles.py $(if $(WORKLOAD),--workload $(WORKLOAD)) $(BENCH)

# The tables and plots of docs/performance.rst; BENCH for options that all three take.
performance: $(VENV)/bench build/load
	@for each in run growth profiles; do \
		$(BIN)/python benchmarks/$$each.py --docs docs/performance $(BENCH) >/dev/null || exit 1; \
	done

build/load: benchmarks/load.c
	@command -v $(CC) >/dev/null || \
		{ echo "make bench needs a C compiler, and there is no $(CC): Debian's gcc and libc6-dev" >&2; exit 1; }
	@mkdir -p build
	$(CC) -O2 -Wall -Wextra -pthread -o $@ $<

translations: $(VENV)/dev
	$(BIN)/pybabel compile -D popserv -d popserv/core/locale

clean:
	rm -rf $(VENV) build dist benchmarks/results docs/_build sample *.egg-info .coverage* _trial_temp*

$(VENV)/python: setup.cfg pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/serve: $(VENV)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/dev: $(VENV)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/serve

$(VENV)/bench: $(VENV)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[bench]'
	touch $@ $(VENV)/serve
