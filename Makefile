# Two commands for a person: `make demo` and `make test`. Each makes its environment when there is none.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
ARVIZ1_VENV ?= .venv-arviz1
ARVIZ1_STAMP := $(ARVIZ1_VENV)/installed
NEWEST_VENV ?= .venv-newest
NEWEST_STAMP := $(NEWEST_VENV)/installed
# the first that is 3.12 or later; a pyenv shim may be on PATH and yet not run
LATER_PYTHON ?= $(shell for one in python3.13 python3.12 $(HOME)/.pyenv/versions/3.1[23]*/bin/python; do \
	"$$one" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo "$$one" && break; done)
PEERS_VENV ?= .venv-peers/bench
PEERS_STAMP := $(PEERS_VENV)/installed
CORES ?= 2
export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-all test-arviz1 test-newest docs notebooks dist bench bench-peers peers peers-tables check format clean environment

environment: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: $(STAMP)
	$(BIN)/citevae demo -o runs/demo --overwrite

check: $(STAMP)
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/pre-commit run --all-files --show-diff-on-failure

# a process a core, a file a process: one thread each
test: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES) --dist loadfile

test-all: check
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(CORES) --dist loadfile -m ''
	$(MAKE) docs
	$(if $(LATER_PYTHON),$(MAKE) test-arviz1 test-newest,@echo "test-arviz1 and test-newest left out: no Python 3.12 or later")

# Files written by the environment of the tests, opened by one that has ArviZ 1.x and nothing of ours.
test-arviz1: $(STAMP) $(ARVIZ1_STAMP)
	rm -rf build/arviz1
	cd tests && $(abspath $(BIN))/python -m arviz1.write $(CURDIR)/build/arviz1
	$(ARVIZ1_VENV)/bin/python -I -m pytest -q tests/arviz1

# The suite where a plain install brings the newest packages (anndata 0.13, pandas 3, arviz 1, numpy 2.5).
test-newest: $(NEWEST_STAMP)
	OMP_NUM_THREADS=1 $(NEWEST_VENV)/bin/python -m pytest -q -n $(CORES) --dist loadfile

$(NEWEST_STAMP): pyproject.toml constraints.txt
	$(if $(LATER_PYTHON),,$(error the newest packages need Python 3.12 or later: make test-newest LATER_PYTHON=path/to/python3.13))
	test -x $(NEWEST_VENV)/bin/python || $(LATER_PYTHON) -m venv $(NEWEST_VENV)
	$(NEWEST_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(NEWEST_VENV)/bin/python -m pip install --quiet --upgrade --upgrade-strategy eager -c constraints.txt -e '.[dev]'
	touch $@

$(ARVIZ1_STAMP): tests/arviz1/requirements.txt
	$(if $(LATER_PYTHON),,$(error ArviZ 1.x needs Python 3.12 or later: make test-arviz1 LATER_PYTHON=path/to/python3.12))
	$(LATER_PYTHON) -m venv --clear $(ARVIZ1_VENV)
	$(ARVIZ1_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(ARVIZ1_VENV)/bin/python -m pip install --quiet -r $<
	touch $@

# The site, without a warning; docs/_build/html/index.html opens it.
docs: $(STAMP)
	$(BIN)/python -m sphinx -W --keep-going -q -b html docs docs/_build/html

# The notebooks anew, each with what it shows beside its text.
notebooks: $(STAMP)
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python experiments/notebooks/execute.py

# A wheel and a source archive, as the package index takes them.
dist: $(STAMP)
	rm -rf dist
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*

# One thread: two of them on busy cores wait for each other. ROWS="likelihood step" measures some rows, BENCH=--again anew.
bench: $(STAMP)
	OMP_NUM_THREADS=1 PEERS_PYTHON=$(abspath $(PEERS_VENV))/bin/python $(BIN)/python experiments/speed/run.py \
		$(if $(ROWS),--rows $(ROWS)) $(BENCH)

# The tools that `make bench` is held against, in an environment that has nothing of ours.
bench-peers: $(PEERS_STAMP)

$(PEERS_STAMP): experiments/speed/peers.txt constraints.txt
	$(PYTHON) -m venv --clear $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS_VENV)/bin/python -m pip install --quiet -c constraints.txt -r $<
	touch $@

# Another tool in an environment of its own, with the Python that the first line of its requirements names: make peers PEER=scgen
PEER_REQUIREMENTS = experiments/peers/$(PEER)/requirements.txt
PEER_VENV = .venv-peers/$(PEER)
peers:
	$(if $(PEER),,$(error name one of experiments/peers: make peers PEER=scgen))
	version=$$(sed -n '1s/^# python //p' $(PEER_REQUIREMENTS)); \
	for python in $$(ls -d $(HOME)/.pyenv/versions/$$version.*/bin/python 2>/dev/null) python$$version; do \
		"$$python" -c 'import venv' 2>/dev/null && break; done && "$$python" -m venv --clear $(PEER_VENV)
	$(PEER_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(PEER_VENV)/bin/python -m pip install --quiet -r $(PEER_REQUIREMENTS)

# All that is installed beside ours and the rules, three seeds, and the search; hours. PEERS="--task kang --seeds 1" runs a part.
peers-tables: $(STAMP)
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python experiments/peers/run.py $(PEERS)
	$(if $(PEERS),,OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python experiments/peers/run.py --search)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(ARVIZ1_VENV) $(NEWEST_VENV) .venv-peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
