# Each target is complete: it makes the environment that it needs.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
PEERS = build/peers/.ready
PACKAGING = build/packaging
DOCS = build/docs
# A run with options of its own (BENCH=--quick) is not what is committed.
TABLE = $(if $(BENCH),build/performance.json,benchmarks/performance.json)
FIGURE = $(if $(BENCH),build/growth.png,docs/images/performance_growth.png)

TWO_THREADS = $(if $(BENCH),build,benchmarks)/performance_2_threads.json

# What `make bench` measures: trained runs, where they are. Without SDDPM=RUN, a run of the SDDPM
# network, its weights are random, and the table says so.
SDDPM ?=
INTEGER ?= mnist
# Folders of MNIST and of feature weights: with them, `spikediff evaluate` is measured.
DATA_DIR ?=
FEATURE_WEIGHTS ?=
BATCHES ?= 1 4
PIPELINES ?= SDDPM=runs/sddpm-digits SDM=runs/sdm-digits FSDDIM=runs/fsddim-digits \
	Spiking-Diffusion=runs/spiking-diffusion-digits FSVAE=runs/fsvae-digits
MEASURED = $(if $(SDDPM),--sddpm $(SDDPM),--random-weights) $(PIPELINES:%=--pipeline %) $(INTEGER:%=--integer %) \
	$(BATCHES:%=--batch %) $(DATA_DIR:%=--data-dir %) $(FEATURE_WEIGHTS:%=--feature-weights %)
PERFORMANCE = OMP_NUM_THREADS=1 PYTHONPATH=benchmarks $(BIN)/python -m performance $(MEASURED)

LINTED = src tests benchmarks examples conftest.py hatch_build.py mkdocs_hooks.py

.PHONY: demo test slow lint check format bench bench-guard peers docs dist clean

demo: $(READY)  ## see the shipped spiking model at work, then train one in minutes
	$(BIN)/spikediff demo

test: $(READY)  ## unit tests and doctests
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

slow: $(READY)  ## the tests that take minutes
	$(BIN)/python -m pytest -m slow

lint: $(READY)  ## format, style, types, and the order of imports
	$(BIN)/ruff format --check $(LINTED)
	$(BIN)/ruff check $(LINTED)
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test  ## what CI runs

format: $(READY)
	$(BIN)/ruff format $(LINTED)
	$(BIN)/ruff check --fix $(LINTED)

bench: $(READY) peers  ## speed and memory beside SpikingJelly; BENCH=--quick for a minute of it
	$(PERFORMANCE) --plot $(FIGURE) --output $(TABLE) $(BENCH)
	$(PERFORMANCE) --only integer --threads 2 --output $(TWO_THREADS) $(BENCH)
	$(if $(BENCH),,PYTHONPATH=benchmarks $(BIN)/python -m performance.page)

bench-guard: $(READY) peers  ## fail if one of our ratios is worse than in the committed table
	$(PERFORMANCE) --compare benchmarks/performance.json $(BENCH)

peers: $(PEERS)  ## SpikingJelly, OpenVINO and ONNX Runtime, apart from the environment

docs: $(DOCS)/.ready  ## the documentation site, in build/site; fails if a link leads nowhere
	NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/python -m mkdocs build --strict --quiet

dist: $(PACKAGING)/.ready  ## the sdist and this machine's wheel, in dist; fails if their README does not render
	rm -rf dist
	$(PACKAGING)/bin/python -m build --outdir dist
	$(PACKAGING)/bin/python -m twine check --strict dist/*

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# torch first: with it installed, nothing else pulls another build.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "spikediff needs Python 3.11 or newer; set PYTHON=/path/to/python3.11"; exit 2; }
	@echo "installing torch and spikediff into $(VENV): some minutes, once"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(READY)

$(PEERS): benchmarks/peers.txt $(READY)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --upgrade \
		--target build/peers -r benchmarks/peers.txt
	@touch $(PEERS)

$(PACKAGING)/.ready:
	$(PYTHON) -m venv $(PACKAGING)
	$(PACKAGING)/bin/python -m pip install --quiet --disable-pip-version-check \
		build twine 'readme-renderer[md]'
	@touch $(PACKAGING)/.ready

# The reference is read from the sources, so the site needs what the extra names and no torch.
$(DOCS)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DOCS)
	$(DOCS)/bin/python -c 'import tomllib; \
		extras = tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]; \
		print(*extras["docs"], sep="\n")' > $(DOCS)/requirements.txt
	$(DOCS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt \
		-r $(DOCS)/requirements.txt
	@touch $(DOCS)/.ready
