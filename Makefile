# Two commands for a person: `make demo` and `make test`. Each makes its environment when there is none.
SHELL := bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed
ARVIZ1_VENV ?= .venv-arviz1
ARVIZ1_STAMP := $(ARVIZ1_VENV)/installed
# the first that is 3.12 or later; a pyenv shim may be on PATH and yet not run
LATER_PYTHON ?= $(shell for one in python3.13 python3.12 $(HOME)/.pyenv/versions/3.1[23]*/bin/python; do \
	"$$one" -c 'import sys; sys.exit(sys.version_info < (3, 12))' 2>/dev/null && echo "$$one" && break; done)
PEERS_VENV ?= .venv-peers/bench
PEERS_STAMP := $(PEERS_VENV)/installed
CORES ?= 2
# a CPU build where the package index offers one; a bare `torch` brings CUDA
TORCH := torch==2.13.0
EXTRAS := $(addprefix --extra ,dev challenge annbatch egl scdataset)
# of `make test-versions`: a Python, and the oldest packages that are allowed or the newest
VERSIONS := 3.11-lowest 3.11-newest 3.12-newest 3.13-newest
export OMP_NUM_THREADS ?= 2

.PHONY: demo test test-all test-arviz1 test-versions lock docs notebooks dist bench bench-peers peers peers-tables check format clean environment

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
	$(if $(LATER_PYTHON),$(MAKE) test-arviz1 test-versions,@echo "test-arviz1 and test-versions left out: no Python 3.12 or later")

# Files written by the environment of the tests, opened by one that has ArviZ 1.x and nothing of ours.
test-arviz1: $(STAMP) $(ARVIZ1_STAMP)
	rm -rf build/arviz1
	cd tests && $(abspath $(BIN))/python -m arviz1.write $(CURDIR)/build/arviz1
	$(ARVIZ1_VENV)/bin/python -I -m pytest -q tests/arviz1

# The suite with the oldest packages that pyproject.toml allows, and with the newest, on each Python.
test-versions: $(VERSIONS:%=test-on-%)

test-on-%: .venv-versions/%/installed
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(dir $<)bin/python -m pytest -q -n $(CORES) --dist loadfile

.venv-versions/%/installed: pyproject.toml $(STAMP)
	for python in python$(firstword $(subst -, ,$*)) $(HOME)/.pyenv/versions/$(firstword $(subst -, ,$*)).*/bin/python; do \
		"$$python" -c 'import venv' 2>/dev/null && break; done && "$$python" -m venv --clear $(@D)
	$(BIN)/uv pip compile pyproject.toml --extra dev --no-annotate --quiet --python $(@D)/bin/python \
		$(if $(findstring lowest,$*),--resolution lowest-direct,--constraint <(echo $(TORCH))) -o $(@D)/packages.txt
	$(@D)/bin/python -m pip install --quiet --upgrade pip
	$(@D)/bin/python -m pip install --quiet -c $(@D)/packages.txt -e '.[dev]'
	touch $@

# constraints.txt anew: every package of the environment as of today, for each Python.
lock: $(STAMP)
	$(BIN)/uv pip compile pyproject.toml $(EXTRAS) --universal --python-version 3.11 --upgrade --no-annotate --no-header --quiet \
		--constraint <(echo $(TORCH)) -o build/constraints.txt
	{ echo "# Every package of the environment, for Python 3.11 to 3.13: make lock, on $$(date +%F)."; \
		cat build/constraints.txt; } > constraints.txt

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

$(PEERS_STAMP): experiments/speed/peers.txt
	$(PYTHON) -m venv --clear $(PEERS_VENV)
	$(PEERS_VENV)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS_VENV)/bin/python -m pip install --quiet -r $< '$(TORCH)'
	touch $@

# Another tool in an environment of its own, with the Python that the first line of its requirements names: make peers PEER=scgen
PEER_REQUIREMENTS = experiments/peers/$(PEER)/requirements.txt
PEER_VENV = .venv-peers/$(PEER)
peers:
	$(if $(PEER),,$(error name one of experiments/peers: make peers PEER=scgen))
	version=$$(sed -n '1s/^# python //p' $(PEER_REQUIREMENTS)); \
	for python in $$(ls -d $(HOME)/.pyenv/versions/$$version.*/bin/python 2>/dev/null) python$$version; do \
		"$$python" -c 'import venv' 2>/dev/null && break; done && "$$python" -m venv --clear $(PEER_VENV)
	$(PEER_VENV)/bin/python -m pip install --quiet 'pip<24.1'  # later ones refuse how older packages name versions
	$(PEER_VENV)/bin/python -m pip install --quiet -r $(PEER_REQUIREMENTS)
	$(if $(wildcard experiments/peers/$(PEER)/without_dependencies.txt),$(PEER_VENV)/bin/python -m pip install --quiet --no-deps \
		-r experiments/peers/$(PEER)/without_dependencies.txt)

# All that is installed beside ours and the rules, three seeds, and the search; hours. PEERS="--task kang --seeds 1" runs a part.
peers-tables: $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[challenge]'
	OMP_NUM_THREADS=1 NUMBA_NUM_THREADS=1 $(BIN)/python experiments/peers/run.py $(or $(PEERS),--search)

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) $(ARVIZ1_VENV) .venv-versions .venv-peers build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
