# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3.11
OUT ?= demo
BIN := .venv/bin
STAGES := train export serving index eval
STAMP := .venv/.installed
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := help
.PHONY: help env demo test test-all test-gpu lint types bench bench-gpu system-deps clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

# torch first and by itself: its version decides which builds of the rest fit.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt torch
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[demo]'
	@touch $@

# What tests and linters need on top; the demo does without.
$(STAMP)-dev: $(STAMP)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

# The libraries that evaluation is compared with.
$(STAMP)-bench: $(STAMP)-dev
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[bench]'
	@touch $@

# Both Faiss packages bring the same files: without both removed first, one would take the other's along.
$(STAMP)-gpu: $(STAMP)-dev
	$(BIN)/pip uninstall --quiet --yes faiss-cpu faiss-gpu
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[gpu-index]'
	@touch $@

env: $(STAMP)-dev ## build .venv with everything for development

demo: $(STAMP) ## run the whole job on phantoms, or on DATA=<dir>; OUT=<dir> holds the results
	$(BIN)/chextriev demo $(OUT) $(if $(DATA),--data '$(DATA)')

# Two tests at a time, each on one core; who has none left takes some of the other's.
test test-all: export OMP_NUM_THREADS = 1
test-all: export HYPOTHESIS_PROFILE = new

test: $(STAMP)-dev lint types ## lint, type-check and run the fast tests
	$(BIN)/pytest -n 2 --dist worksteal -m 'not slow and not gpu'

test-all: $(STAMP)-bench ## run every test that needs no GPU
	$(BIN)/pytest -n 2 --dist worksteal -m 'not gpu'

test-gpu: $(STAMP)-gpu ## run the tests that need an NVIDIA GPU
	$(BIN)/pytest -m gpu

lint: $(STAMP)-dev ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The type checker cannot follow the package mapping, so it sees a tree of links.
types: $(STAMP)-dev ## mypy --strict
	@rm -rf .typing && mkdir -p .typing && cp -rs '$(CURDIR)/chextriev' .typing/chextriev
	@for stage in $(STAGES); do ln -sfn '$(CURDIR)'/$$stage .typing/chextriev/$$stage; done
	cd .typing && ../$(BIN)/mypy --config-file ../pyproject.toml chextriev

# serving/bench/get_perf_analyzer.sh fetches Triton's own load generator, to measure with it as well.
bench: $(STAMP)-bench ## measure speed, PERF_ANALYZER=<program> and EMBEDDINGS=<folder> as well; JSON under eval/results/
	@mkdir -p eval/results
	for part in data encode train eval; do \
		$(BIN)/chextriev bench $$part --out eval/results/bench-$$part.json || exit 1; done
	$(BIN)/chextriev bench index --large 1000000 $(if $(EMBEDDINGS),--vectors '$(EMBEDDINGS)') \
		--out eval/results/bench-index.json --plot eval/results/bench-index.svg
	$(BIN)/chextriev bench serve --minutes 10 $(if $(PERF_ANALYZER),--perf-analyzer '$(PERF_ANALYZER)') \
		--out eval/results/bench-serve.json --plot eval/results/bench-serve.svg

bench-gpu: $(STAMP)-gpu ## measure the encoder and the index on an NVIDIA GPU
	@mkdir -p eval/results
	$(BIN)/chextriev bench index-gpu --out eval/results/bench-index-gpu.json
	$(BIN)/chextriev bench encode --device cuda --out eval/results/bench-encode-gpu.json

# Debian starts a new Orthanc as a daemon, which the tests do without; one that was there before is left as it is.
system-deps: ## install the Debian programs that some tests use (as root)
	apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium dcmtk
	dpkg -s orthanc orthanc-dicomweb >/dev/null 2>&1 || { \
		apt-get install -y -qq --no-install-recommends orthanc orthanc-dicomweb && \
		update-rc.d orthanc disable && { service orthanc stop || true; }; }

clean: ## remove the environment and the demo's results
	rm -rf .venv .typing build demo
