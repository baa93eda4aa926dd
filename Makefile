SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN_TESTS := $(BIN)/python -bb -W error -m coverage run -m tests

.PHONY: help serve test lint docs translations clean

help:
	@echo "make serve     serve a sample maildrop on 127.0.0.1:1110"
	@echo "make test      run the whole test suite"
	@echo "make lint      ruff and mypy"
	@echo "make docs      build docs/_build/html, warnings as errors"
	@echo "make translations   compile popserv/locale after an edit"
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

docs: $(VENV)/dev
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

translations: $(VENV)/dev
	$(BIN)/pybabel compile -D popserv -d popserv/locale

clean:
	rm -rf $(VENV) build dist docs/_build sample *.egg-info .coverage* _trial_temp*

$(VENV)/python: setup.cfg pyproject.toml
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/serve: $(VENV)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/dev: $(VENV)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@ $(VENV)/serve
