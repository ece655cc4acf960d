# Two commands do everything: `make demo` and `make test`. Each makes its own environment under .envs/.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.10 python3 python; do \
	if $$p -c 'import sys; raise SystemExit(not (3, 10) <= sys.version_info < (3, 13))' 2>/dev/null; then echo $$p; break; fi; done)
ENVS := .envs
DEMO := $(ENVS)/demo
TEST := $(ENVS)/test
NUMPY2 := $(ENVS)/numpy2
BACKEND := $(ENVS)/backend
PIP := -m pip install --quiet --disable-pip-version-check
export BENTOML_DO_NOT_TRACK := true
unexport PYTHONPATH VIRTUAL_ENV PYTHONHOME

.PHONY: help demo demo-loop serve traces test test-full test-numpy2 lint types bench bench-quick bento backend clean
.DEFAULT_GOAL := help

help:  ## what there is
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(DEMO)/.ready  ## train, serve, send requests, show what the guards did; ends by itself
	@$(DEMO)/bin/python -m services.demo

serve: $(DEMO)/.ready  ## the same, and leave the services running until Ctrl-C
	@$(DEMO)/bin/python -m services.demo --keep

traces: $(DEMO)/.ready $(BACKEND)/.ready  ## the same, with the traces in a real backend (Arize Phoenix)
	@$(DEMO)/bin/python -m services.demo --keep --phoenix $(BACKEND)/bin/phoenix

demo-loop: $(DEMO)/.ready  ## a recommender that retrains from its own log, with and without exploration and weights
	@$(DEMO)/bin/python -m services.songs.loop

test: $(TEST)/.ready  ## the whole suite; what is optional and missing (trace backend, Prometheus, Chromium) is skipped by name
	@$(TEST)/bin/python -m pytest -q -m "not full"

test-full: $(TEST)/.ready  ## the suite and its heavy sweeps
	@$(TEST)/bin/python -m pytest -q

# What depends on servers and databases rather than on numpy is left to `make test`.
RUN_ONCE := tests/served tests/decisions

test-numpy2: $(NUMPY2)/.ready  ## the suite without alibi-detect, servers and databases, on numpy 2
	@$(NUMPY2)/bin/python -m pytest -q -m "not full" $(RUN_ONCE:%=--ignore=%)

lint: $(TEST)/.ready  ## ruff
	@$(TEST)/bin/ruff check guardrails services tests benchmarks
	@$(TEST)/bin/ruff format --check guardrails services tests benchmarks

types: $(TEST)/.ready  ## mypy --strict
	@$(TEST)/bin/mypy

bench: $(TEST)/.ready  ## all benchmarks (about an hour)
	@$(TEST)/bin/python -m benchmarks.overhead
	@$(TEST)/bin/python -m benchmarks.detectors
	@$(TEST)/bin/python -m benchmarks.two_sample
	@$(TEST)/bin/python -m benchmarks.drift
	@$(TEST)/bin/python -m benchmarks.exploration
	@$(TEST)/bin/python -m benchmarks.closed_loop
	@$(TEST)/bin/python -m benchmarks.served
	@$(TEST)/bin/python -m benchmarks.switched drift
	@$(TEST)/bin/python -m benchmarks.switched records

bench-quick: $(TEST)/.ready  ## a smoke of the benchmarks (five minutes)
	@$(TEST)/bin/python -m benchmarks.overhead --quick
	@$(TEST)/bin/python -m benchmarks.detectors --quick
	@$(TEST)/bin/python -m benchmarks.two_sample --quick
	@$(TEST)/bin/python -m benchmarks.drift --quick
	@$(TEST)/bin/python -m benchmarks.exploration --quick
	@$(TEST)/bin/python -m benchmarks.closed_loop --quick
	@$(TEST)/bin/python -m benchmarks.served --quick

bento: $(DEMO)/.ready  ## build the three services as bentos that carry this library
	@$(DEMO)/bin/python -m services.tumor.train
	@$(DEMO)/bin/python -m services.songs.train
	@$(DEMO)/bin/python -m services.digits.train
	@$(DEMO)/bin/bentoml build -f services/tumor/bentofile.yaml .
	@$(DEMO)/bin/bentoml build -f services/songs/bentofile.yaml .
	@$(DEMO)/bin/bentoml build -f services/digits/bentofile.yaml .

backend: $(BACKEND)/.ready  ## a real trace backend (Arize Phoenix, 850 MB) in an environment of its own

$(DEMO)/.ready: pyproject.toml constraints.txt
	@$(call environment,$(DEMO))
	@$(DEMO)/bin/python $(PIP) -c constraints.txt -e .
	@touch $@

$(TEST)/.ready: pyproject.toml constraints.txt
	@$(call environment,$(TEST))
	@$(TEST)/bin/python $(PIP) -c constraints.txt -e '.[dev,alibi]'
	@touch $@

# numpy and what is built on numpy 1 give way; everything else keeps its pin.
$(NUMPY2)/.ready: pyproject.toml constraints.txt
	@$(call environment,$(NUMPY2))
	@grep -vE '^(numpy|numba|llvmlite|alibi-detect)==' constraints.txt > $(NUMPY2)/constraints.txt
	@$(NUMPY2)/bin/python $(PIP) -c $(NUMPY2)/constraints.txt -e '.[dev]' 'numpy>=2'
	@touch $@

$(BACKEND)/.ready: Makefile
	@$(call environment,$(BACKEND))
	@$(BACKEND)/bin/python $(PIP) arize-phoenix==20.26.1
	@touch $@

define environment
	if [ -z "$(PYTHON)" ]; then echo "No Python 3.10, 3.11 or 3.12 found. Name one: make $(MAKECMDGOALS) PYTHON=/path/to/python"; exit 1; fi; \
	echo "Making $(1) with $$($(PYTHON) --version) (once; a minute or more) ..."; \
	$(PYTHON) -m venv --clear $(1)
endef

clean:  ## remove the environments and what the demo left
	rm -rf $(ENVS) .demo
