# Everything starts here; `make help` lists it. Needs Python 3.11 or newer, make, and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test fuzz check lint types lock openapi reference bench bench-gpu clean

help:  ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## *(.*)/  make \1|\2/' | column -t -s '|'

setup: $(READY)  ## make .venv with the locked versions (once; again when the lock changes)

# The stamp is the last thing written: a set-up that broke off is done again.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "text2mask needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@echo "Setting up $(VENV): about 6 GB on disk, a few minutes, once."
	@$(PYTHON) -m venv $(VENV) || \
	  { echo "'$(PYTHON)' cannot make virtual environments; on Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --disable-pip-version-check --require-hashes --requirement requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: setup  ## start the service, segment a bundled picture, write out/demo/, stop
	@$(BIN)/python -m deployments.demo $(ARGS)

serve: setup  ## start the service with the embedded model on 127.0.0.1:8000
	@$(BIN)/text2mask serve $(ARGS)

test: setup  ## run the tests; ARGS="-k name" picks some
	@$(BIN)/python -m pytest $(ARGS)

fuzz: setup  ## 100,000 made-up inputs for the parsers, then requests for a live service; ARGS="--runs 100000" for more
	@$(BIN)/python -m tests.fuzz.run $(ARGS); status=$$?; $(BIN)/python -m tests.fuzz.api && exit $$status

check: lint types test  ## all that must hold before a commit lands

lint: setup  ## ruff: mistakes, style, layout of imports
	@$(BIN)/python -m ruff check .
	@$(BIN)/python -m ruff format --check --quiet .

types: setup  ## mypy, strict
	@$(BIN)/python -m mypy

lock: setup  ## renew requirements.lock; ARGS=--upgrade takes the newest versions
	@$(BIN)/python -m uv pip compile --quiet --universal --python-version 3.11 --all-extras --generate-hashes \
	  --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" $(ARGS) \
	  --output-file requirements.lock pyproject.toml

reference: setup  ## renew docs/reference/, which is made from the code
	@$(BIN)/python -m docs.generate

openapi: setup  ## renew openapi.json, the document that /openapi.json serves
	@$(BIN)/python -m deployments.http.openapi > openapi.json

bench: setup  ## the service beside others, then its models beside the official code: minutes; ARGS=--quick for a look
	@$(BIN)/python -m benchmarks.serving $(ARGS)
	@$(BIN)/python -m benchmarks.known_image
	@$(BIN)/python -m benchmarks.model_cores

bench-gpu: setup  ## the models beside the official code on one GPU: ten minutes at most; ARGS="--cpu --tiny" for a look
	@$(BIN)/python -m benchmarks.gpu $(ARGS)

clean:  ## remove .venv, caches and outputs
	@rm -rf $(VENV) out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
