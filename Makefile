SHELL := /bin/bash
# A command that writes to a pipe must not fail unnoticed.
.SHELLFLAGS := -o pipefail -c
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# make bench WORKLOAD=poll-500, or several separated by commas; BENCH holds further options.
WORKLOAD ?=
BENCH ?=
# Options of these targets, such as --help.
CLUSTER ?=
CHAOS ?=
SOAK ?=
ENDURANCE ?=
VERSIONS ?=
FUZZ ?=
FAULTS ?=
ATTACK ?=
MUTATION ?=
AUDIT ?=
REQUIREMENTS ?=
# The private key of ssh, or the public one of a key in ssh-agent, that signs make dist.
KEY =
RUN_TESTS := $(BIN)/python -bb -W error -m coverage run -m tests
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
LOCKED := $(INSTALL) --no-build-isolation --require-hashes --requirement
RESOLVE := $(BIN)/uv pip compile --quiet --universal --python-version 3.10
COMPILE := $(RESOLVE) --generate-hashes --annotation-style line
SPHINX := $(BIN)/python -m sphinx -W --keep-going -q -d docs/_build/doctrees

.PHONY: help serve cluster chaos test soak endurance versions fuzz faults attack mutation lint audit requirements docs man completions dist deb bench bench-growth bench-sql profile performance speedups translations clean

help:
	@echo "make serve          serve a sample maildrop on 127.0.0.1:1110"
	@echo "make cluster        run three servers with PostgreSQL, an object store and HAProxy on this"
	@echo "                    machine; CLUSTER=--small is one server, and requires no HAProxy"
	@echo "make chaos          break such a cluster for minutes while clients use it;"
	@echo "                    CHAOS='--seed 1 --seconds 60', CHAOS=--help lists the options"
	@echo "make test           run all tests and report the coverage"
	@echo "make soak           run random sessions against real servers and compare them with a model;"
	@echo "                    SOAK=--help lists the options"
	@echo "make endurance      use servers for a million sessions, and see whether anything grows;"
	@echo "                    ENDURANCE=--help lists the options"
	@echo "make versions       run the tests with all installed versions of Python, and the oldest libraries"
	@echo "make fuzz           run what reads the input of others with inputs that coverage guides;"
	@echo "                    FUZZ='--target mbox --seconds 600', FUZZ=--help lists the options"
	@echo "make faults         let each system call of servers and commands fail, in turn, for hours;"
	@echo "                    FAULTS=--help lists the options"
	@echo "make attack         attack a server, and measure what that costs it and its other clients;"
	@echo "                    ATTACK=--help lists the options"
	@echo "make mutation       change single lines of popserv, and see whether a test fails;"
	@echo "                    MUTATION='--since main', MUTATION=--help lists the options"
	@echo "make lint           run ruff, mypy, import-linter and shellcheck"
	@echo "make audit          ask for known vulnerabilities of the libraries, which requires network access"
	@echo "make requirements   add to requirements what setup.cfg needs, with hashes;"
	@echo "                    REQUIREMENTS=--upgrade takes the newest version of everything"
	@echo "make docs           build docs/_build/html, and check that the pages in man are up to date"
	@echo "make man            build the manual pages in man, which are committed"
	@echo "make completions    write the completions for bash and zsh, which are committed"
	@echo "make dist           build what a release consists of in dist; KEY=FILE signs it with a key of ssh"
	@echo "make deb            build the Debian package in dist, on a Debian machine"
	@echo "make bench          compare popserv with Dovecot and twisted.mail, see benchmarks/README.rst;"
	@echo "                    WORKLOAD=poll-500 selects a workload, BENCH=--help lists the options"
	@echo "make bench-sql      compare the SQL store with Maildirs; BENCH='--part growth,servers' measures"
	@echo "                    many maildrops, and several servers"
	@echo "make bench-growth   measure polls of large maildrops, and the memory of many connections"
	@echo "make profile        show where popserv spends its time; WORKLOAD and BENCH as above"
	@echo "make performance    run all three for the figures in docs/performance.rst"
	@echo "make speedups       compile popserv/_speedups.c, which installing does as well"
	@echo "make translations   compile the catalogs in popserv/core/locale"
	@echo "make clean          remove everything that these targets create, except man and completions"

serve: $(VENV)/serve
	@$(BIN)/python examples/sample_maildrop.py sample
	@exec $(BIN)/twistd --nodaemon --pidfile= pop3 --maildir sample --listen tcp:1110:interface=127.0.0.1

cluster: $(VENV)/cluster
	@exec $(BIN)/python -m examples.cluster $(CLUSTER)

chaos: $(VENV)/dev
	@exec $(BIN)/python -m tests.live.chaos $(CHAOS)

# The exit code is that of the tests, or of the report if they passed.
test: $(VENV)/dev
	@echo "make test: all tests take about 15 minutes on 2 cores"
	$(BIN)/python -m coverage erase
	@status=0; \
	$(RUN_TESTS) || status=$$?; \
	$(BIN)/python -m coverage combine --quiet; \
	$(BIN)/python -m coverage report || status=$$(( status ? status : $$? )); \
	exit $$status

soak: $(VENV)/dev
	@$(BIN)/python -bb -W error -m tests.soak $(SOAK)

endurance: $(VENV)/dev $(VENV)/bench
	@$(BIN)/python -bb -W error -m tests.endurance $(ENDURANCE)

versions: $(VENV)/dev
	$(BIN)/nox $(VERSIONS)

fuzz: $(VENV)/dev
	@exec $(BIN)/python -bb -m tests.fuzz $(FUZZ)

faults: $(VENV)/dev
	@$(BIN)/python -bb -W error -m tests.faults $(FAULTS)

attack: $(VENV)/dev
	@$(BIN)/python -m tests.live.hostile $(ATTACK)

mutation: $(VENV)/dev
	@$(BIN)/python -bb -W error -m tests.mutation $(MUTATION)

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/shellcheck $(SHELL_FILES)

# All files whose first line names a shell, and the completions, which have none.
SHELL_FILES = $$(grep --recursive --files-with-matches --no-messages --extended-regexp \
	'^\#!.*[/ ](ba)?sh( |$$)' .ci contrib debian) completions/template.bash completions/bash/*

audit: $(VENV)/dev
	@$(BIN)/pip-audit --strict --require-hashes --disable-pip --requirement requirements/dev.txt $(AUDIT) || \
		{ echo "make audit has failed: a library has a vulnerability, or its advisories cannot be read here;" \
		"AUDIT='--vulnerability-service osv' asks another service" >&2; exit 1; }

# What the server, its tests and a build need is a part of dev.txt, in the same versions.
# No other tool than uv need be installed, which is impossible if setup.cfg needs something new.
# For oldest.txt, the libraries of the server are resolved without the tools of the tests.
requirements: export UV_CUSTOM_COMPILE_COMMAND = make requirements
requirements: $(VENV)/python
	sed -n '/^uv==/,/^    #/p' requirements/dev.txt | $(LOCKED) /dev/stdin
	$(COMPILE) $(REQUIREMENTS) --extra dev --output-file requirements/dev.txt setup.cfg
	$(COMPILE) --extra all --constraint requirements/dev.txt --output-file requirements/server.txt setup.cfg
	$(COMPILE) --extra test --constraint requirements/dev.txt --output-file requirements/test.txt setup.cfg
	echo setuptools | $(COMPILE) --constraint requirements/dev.txt --output-file requirements/build.txt -
	$(RESOLVE) --resolution lowest-direct --no-deps --extra all --extra cluster setup.cfg | \
		$(COMPILE) $(REQUIREMENTS) --extra test --constraint - --output-file requirements/oldest.txt setup.cfg

# diff ignores comments, in which docutils names its version.
docs: $(VENV)/dev
	@command -v dot >/dev/null || \
		{ echo "make docs needs the program dot: install Graphviz, Debian's package graphviz" >&2; exit 1; }
	$(SPHINX) -b html docs docs/_build/html
	$(SPHINX) -b man docs docs/_build/man
	@diff -ru --ignore-matching-lines='^\.\\"' man docs/_build/man || \
		{ echo "man is not up to date with docs: run make man, and commit the changes" >&2; exit 1; }

man: $(VENV)/dev
	$(SPHINX) -b man docs man

completions: $(VENV)/dev
	$(BIN)/python completions/generate.py

# Everybody who builds a version with the same Python, or on the same release of Debian, gets the
# same octets.
dist deb: export SOURCE_DATE_EPOCH ?= $(shell git log -1 --format=%ct 2>/dev/null || stat -c %Y CHANGELOG.rst)

dist: $(VENV)/dev
	rm -rf dist
	$(BIN)/pyproject-build --no-isolation --outdir dist
	cp requirements/server.txt "$$(echo dist/popserv-*.tar.gz | sed s/.tar.gz$$/-requirements.txt/)"
	$(BIN)/python release/sbom.py dist/popserv-*.whl >"$$(echo dist/popserv-*.tar.gz | sed s/.tar.gz$$/.cdx.json/)"
	cd dist && export LC_ALL=C && sha256sum popserv-* >SHA256SUMS
ifdef KEY
	ssh-keygen -q -Y sign -n file -f $(KEY) dist/SHA256SUMS
else
	@echo "dist/SHA256SUMS is not signed: name a key of ssh, as in make dist KEY=~/.ssh/id_ed25519" >&2
endif

deb: $(VENV)/dev
	@command -v dh >/dev/null || \
		{ echo "make deb needs debhelper: apt-get build-dep . installs all that it needs" >&2; exit 1; }
	rm -f dist/popserv-*.tar.gz dist/popserv_*.deb
	$(BIN)/pyproject-build --no-isolation --sdist --outdir dist
	debian/package dist

bench: $(VENV)/bench build/load
	@$(BIN)/python benchmarks/run.py $(if $(WORKLOAD),--workload $(WORKLOAD)) $(BENCH)

bench-growth: $(VENV)/bench build/load
	@$(BIN)/python benchmarks/growth.py $(BENCH)

bench-sql: $(VENV)/dev $(VENV)/bench build/load
	@$(BIN)/python benchmarks/sql.py $(if $(WORKLOAD),--workload $(WORKLOAD)) $(BENCH)

profile: $(VENV)/bench build/load
	@$(BIN)/python benchmarks/profiles.py $(if $(WORKLOAD),--workload $(WORKLOAD)) $(BENCH)

# Writes the tables and plots of docs/performance.rst; BENCH holds options that all three accept.
performance: $(VENV)/bench build/load
	@for each in run growth profiles; do \
		$(BIN)/python benchmarks/$$each.py --docs docs/performance $(BENCH) >/dev/null || exit 1; \
	done

build/load: benchmarks/load.c
	@command -v $(CC) >/dev/null || \
		{ echo "make bench needs a C compiler, and $(CC) is not installed: Debian's packages gcc and libc6-dev" >&2; exit 1; }
	@echo '#include <openssl/ssl.h>' | $(CC) -E -o /dev/null - 2>/dev/null || \
		{ echo "make bench needs the headers of OpenSSL 3: Debian's package libssl-dev" >&2; exit 1; }
	@mkdir -p build
	$(CC) -O2 -Wall -Wextra -pthread -o $@ $< -lssl -lcrypto

speedups: $(VENV)/dev
	$(BIN)/python setup.py --quiet build_ext --inplace

translations: $(VENV)/dev
	$(BIN)/pybabel compile -D popserv -d popserv/core/locale

clean:
	rm -rf $(VENV) .nox build dist popserv/*.so benchmarks/results docs/_build sample *.egg-info .coverage* _trial_temp*

# An environment that was made with another PYTHON than the one given now is made again.
ifneq ($(origin PYTHON),file)
ifneq ($(PYTHON),$(shell cat $(VENV)/python 2>/dev/null))
.PHONY: $(VENV)/python
endif
endif

$(VENV)/python: setup.cfg setup.py pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and \
		"popserv requires Python 3.10 or newer, and $(PYTHON) is %d.%d: name another one, as in make PYTHON=python3.12" \
		% sys.version_info[:2])'
	@rm -f $(VENV)/serve $(VENV)/cluster $(VENV)/dev $(VENV)/bench
	$(PYTHON) -m venv --clear $(VENV)
	@echo $(PYTHON) >$@

$(VENV)/serve: $(VENV)/python
	@echo "installing Twisted in $(VENV): takes up to a minute, once"
	$(INSTALL) --editable .
	@touch $@

$(VENV)/cluster: $(VENV)/python
	@echo "installing Twisted, psycopg, obstore, PostgreSQL and rclone in $(VENV): takes a minute, once"
	$(INSTALL) --editable '.[cluster]'
	@touch $@ $(VENV)/serve

# Without an index, the last step fails if the requirements lack something.
$(VENV)/dev: $(VENV)/python requirements/dev.txt requirements/build.txt
	@echo "installing Twisted and the tools for development in $(VENV): takes a few minutes, once"
	$(LOCKED) requirements/build.txt
	$(LOCKED) requirements/dev.txt
	@$(INSTALL) --no-index --no-build-isolation --editable '.[dev]' || \
		{ echo "requirements/dev.txt is not up to date with setup.cfg: run make requirements" >&2; exit 1; }
	@touch $@ $(VENV)/serve $(VENV)/cluster

$(VENV)/bench: $(VENV)/python
	@echo "installing Twisted, pyOpenSSL and matplotlib in $(VENV): takes a few minutes, once"
	$(INSTALL) --editable '.[bench]'
	@touch $@ $(VENV)/serve
