# Each target first makes .venv and installs what is missing. PYTHON=python3.12 make ... chooses
# the interpreter that .venv is made with.

VENV := .venv/.installed
BACKENDS := .venv/.backends
PYTEST := .venv/bin/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help demo test test-slow test-backends test-all lint bench notebooks docs clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

demo: $(VENV) ## draw synthetic tissue, train both networks, find its nuclei (5 to 10 minutes)
	.venv/bin/nucleus demo

test: $(VENV) ## the fast tests, with coverage
	$(PYTEST) --cov --cov-fail-under=85

# pytest exits with 5 when there is no slow test, which is no failure.
test-slow: $(BACKENDS) ## the slow tests
	$(PYTEST) -m slow || [ $$? -eq 5 ]

# Threads of PyTorch that wait would keep the others from working.
test-backends: $(BACKENDS) ## what backends compute, on JAX and on PyTorch
	KERAS_BACKEND=jax $(PYTEST) -m backend
	KERAS_BACKEND=torch GOMP_SPINCOUNT=0 $(PYTEST) -m backend

test-all: test test-slow test-backends ## all of them

lint: $(VENV) ## style and formatting
	.venv/bin/ruff check
	.venv/bin/ruff format --check

bench: $(VENV) ## measure speed
	.venv/bin/python benchmarks/run.py

notebooks: $(VENV) ## execute the notebooks and keep what they show
	.venv/bin/python scripts/run_notebooks.py

docs: $(VENV) ## build the documentation into site/, without a warning
	NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict

clean: ## remove .venv, the documentation and what tests and builds left; results and weights stay
	rm -rf .venv site build dist *.egg-info .pytest_cache .ruff_cache .hypothesis .coverage .coverage.*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV): setup.py scripts/setup.sh
	@scripts/setup.sh

$(BACKENDS): $(VENV)
	@scripts/setup.sh backends
