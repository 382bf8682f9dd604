# Every target sets up what it needs. `make help` lists them.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
TORCH := torch==2.13.0
STAGES := train export index eval

.DEFAULT_GOAL := help
.PHONY: help env demo test test-all test-gpu lint types bench bench-gpu system-deps clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

types: env ## mypy --strict, with the stages linked where the package mapping puts them
	@rm -rf .typing && mkdir -p .typing
	@cp -rs $(CURDIR)/chextriev .typing/chextriev
	@for stage in $(STAGES); do ln -sfn $(CURDIR)/$$stage .typing/chextriev/$$stage; done
	cd .typing && ../$(BIN)/mypy --config-file ../pyproject.toml chextriev
