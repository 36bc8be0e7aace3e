# Every path is relative to this file's folder, so the checkout may live under a path with spaces.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed
PIP_INSTALL := -m pip install --quiet --disable-pip-version-check

# What test-fast runs: the parts of the package that know no Lightning, their docstrings and their tests (a test holds
# the list against that of the layers). Left to make test: what takes as long as all the rest together (Triton's
# interpreter, trees of a hundred thousand nodes), and the public names, some of which are Lightning's.
NUMERICS := $(addprefix src/ida_lightning/,addressing.py checks.py errors.py files.py texts.py inputs.py label_mix.py mixing adapters.py supervision.py picking.py blending.py \
  isotonic losses metrics revision_selection truth.py augment)
FAST_TESTS := $(addprefix tests/,test_addressing.py test_files.py test_label_mix.py test_mixing.py test_adapters.py test_supervision.py test_truth.py \
  test_blending.py test_layers.py test_repository.py isotonic losses metrics revision_selection augment)
NOT_FAST := triton or hundred_thousand or public_names

# The lowest versions that pyproject.toml allows, in an environment of their own.
LOWER_VENV := .venv-lower
LOWER_STAMP := $(LOWER_VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install hooks demo compare-demo audit-demo check test test-fast test-slow test-lower-bounds coverage \
  bench-isotonic bench-data bench-step bench-aot gpu-check export-parity package notebooks pictures docs docs-serve clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## create .venv with exact versions (about 6 GB: torch brings CUDA)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: needs Python >= 3.10, found $$($(PYTHON) --version); try make PYTHON=python3.11" >&2; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## train a teacher on digits, repair its soft labels, distil students; writes outputs/demo/
	$(RUN) -m ida_lightning.studies.demo

audit-demo: $(STAMP) ## does the digits teacher break orders, would correcting change anything; writes outputs/audit/
	test -f outputs/digits/teacher.safetensors || $(RUN) -m ida_lightning fit --config configs/digits/teacher.yaml
	$(RUN) -m ida_lightning audit --config configs/digits/ida_cutmix.yaml

compare-demo: $(STAMP) ## nine methods x three seeds on digits, 5 minutes; writes outputs/digits/compare/
	$(RUN) -m ida_lightning compare --config configs/digits/compare.yaml

check: $(STAMP) ## lint and type-check, no tests
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

hooks: $(STAMP) ## install pre-commit and have git run make check's tools before every commit
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e '.[hooks]'
	$(RUN) -m pre_commit install

test: check ## lint, type-check and run the suite
	$(RUN) -m pytest -n 2 --dist worksteal

test-fast: $(STAMP) ## the tests of the numerics, with Lightning out of reach
	$(RUN) -m pytest -n 2 --dist worksteal --without-lightning -k 'not ($(NOT_FAST))' $(FAST_TESTS) $(NUMERICS)

test-slow: $(STAMP) ## the tests marked slow
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e '.[notebooks,package]'
	$(RUN) -m pytest -m slow

coverage: $(STAMP) ## the suite, with the lines that it never runs; fails below the floor in pyproject.toml
	$(RUN) -m pytest -n 2 --dist worksteal --cov --cov-report=term-missing:skip-covered

# What old versions say about each other's deprecated calls is no matter of this package.
test-lower-bounds: $(LOWER_STAMP) ## install exactly the lower bounds of pyproject.toml in .venv-lower (5 GB), run the suite
	$(LOWER_VENV)/bin/python -m pytest -n 2 --dist worksteal -W ignore::DeprecationWarning

$(LOWER_STAMP): $(STAMP) pyproject.toml tools/lower_bounds.py
	test -x $(LOWER_VENV)/bin/python || $(PYTHON) -m venv $(LOWER_VENV)
	$(RUN) tools/lower_bounds.py dev > $(LOWER_VENV)/requirements.txt
	$(LOWER_VENV)/bin/python $(PIP_INSTALL) -r $(LOWER_VENV)/requirements.txt -e .
	@touch $@

bench-isotonic: $(STAMP) ## time the isotonic solvers, 10 minutes; writes benchmarks/results and the table of docs/solvers.md
	$(RUN) benchmarks/isotonic.py --rows 256 --dtypes float32 --minutes 6
	$(RUN) benchmarks/isotonic.py --append --no-compile --rows 64 128 1024 --rates 1.0 --minutes 4
	$(RUN) benchmarks/table.py

bench-data: $(STAMP) ## images per second beside torchvision and timm, 4 minutes; writes benchmarks/results
	$(RUN) benchmarks/data.py

bench-step: $(STAMP) ## time a training step beside a bare loop and timm, half an hour; writes benchmarks/results
	$(RUN) benchmarks/step.py --minutes 30

bench-aot: $(STAMP) ## compile the kernel for GPUs that are not here, 10 minutes; writes benchmarks/results
	$(RUN) benchmarks/ahead_of_time.py

# No stamp and no environment of ours: a machine with a GPU may have no network, and its own Python with torch in it.
gpu-check: ## is the CUDA path right, what does it cost, 8 minutes; writes benchmarks/results (PYTHON=... chooses)
	PYTHONPATH=src $(if $(wildcard $(RUN)),$(RUN),$(PYTHON)) benchmarks/gpu_check.py

export-parity: $(STAMP) ## ONNX and torch.export of three networks with both stems, 5 minutes; writes docs/export.md
	$(RUN) -m tools.export_parity

package: $(STAMP) ## build wheel and source distribution and check them; writes dist/
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e '.[package]'
	rm -rf dist
	$(RUN) -m build
	$(RUN) -m twine check --strict dist/*

notebooks: $(STAMP) ## execute the notebooks, 3 minutes; writes outputs/notebooks/
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e '.[notebooks]'
	$(RUN) -m nbconvert --to notebook --execute --output-dir outputs/notebooks notebooks/*.ipynb

pictures: $(STAMP) ## draw the pictures of the site, a few seconds; writes docs/images/
	$(RUN) -m tools.pictures

docs: $(STAMP) ## build the site into site/, a quarter of a minute; a broken link or reference fails
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e '.[docs]'
	$(RUN) -m zensical build --clean --strict

docs-serve: $(STAMP) ## serve the site at http://localhost:8000, anew with every change
	$(RUN) $(PIP_INSTALL) -c constraints.txt -e '.[docs]'
	$(RUN) -m zensical serve

clean: ## remove the environments, caches and outputs
	rm -rf $(VENV) $(LOWER_VENV) .coverage .cache dist outputs site lightning_logs .mypy_cache .pytest_cache .ruff_cache .hypothesis
