# Every path is relative to this file's folder, so the checkout may live under a path with spaces.
PYTHON ?= python3
VENV := .venv
RUN := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo compare-demo audit-demo test test-slow bench-isotonic bench-data bench-step lint notebooks clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' Makefile

install: $(STAMP) ## create .venv with exact versions (about 6 GB: torch brings CUDA)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	  { echo "make: needs Python >= 3.10, found $$($(PYTHON) --version); try make PYTHON=python3.11" >&2; exit 1; }
	test -x $(RUN) || $(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP) ## train a teacher on digits, repair its soft labels, distil students; writes outputs/demo/
	$(RUN) -m ida_lightning.studies.demo

audit-demo: $(STAMP) ## does the digits teacher break orders, would correcting change anything; writes outputs/audit/
	test -f outputs/digits/teacher.safetensors || $(RUN) -m ida_lightning fit --config configs/digits/teacher.yaml
	$(RUN) -m ida_lightning audit --config configs/digits/ida_cutmix.yaml

compare-demo: $(STAMP) ## nine methods x three seeds on digits, 5 minutes; writes outputs/digits/compare/
	$(RUN) -m ida_lightning compare --config configs/digits/compare.yaml

test: lint ## lint, type-check and run the suite
	$(RUN) -m pytest -n 2 --dist worksteal

test-slow: $(STAMP) ## the tests marked slow
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks]'
	$(RUN) -m pytest -m slow

bench-isotonic: $(STAMP) ## time the isotonic solvers, 10 minutes; writes benchmarks/results and the README's table
	$(RUN) benchmarks/isotonic.py --rows 256 --dtypes float32 --minutes 6
	$(RUN) benchmarks/isotonic.py --append --no-compile --rows 64 128 1024 --rates 1.0 --minutes 4
	$(RUN) benchmarks/table.py

bench-data: $(STAMP) ## images per second beside torchvision and timm, 4 minutes; writes benchmarks/results
	$(RUN) benchmarks/data.py

bench-step: $(STAMP) ## time a training step beside a bare loop and timm, half an hour; writes benchmarks/results
	$(RUN) benchmarks/step.py --minutes 30

lint: $(STAMP) ## ruff and mypy only
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mypy

notebooks: $(STAMP) ## execute the notebooks, 3 minutes; writes outputs/notebooks/
	$(RUN) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[notebooks]'
	$(RUN) -m nbconvert --to notebook --execute --output-dir outputs/notebooks notebooks/*.ipynb

clean: ## remove .venv, caches and outputs
	rm -rf $(VENV) outputs lightning_logs .mypy_cache .pytest_cache .ruff_cache .hypothesis
