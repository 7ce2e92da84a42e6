# Every target does all of its own set-up: what it needs is Python 3.11 or newer, make and Debian's package manager.
# A second run finds the stamps of the first one and starts at once. `make PYTHON=python3.12 test` picks another Python.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test lint types contracts unit bench fleet quality lock clean

BIN := .venv/bin
SETUP := tools/setup
export PYTHON

help: ## what there is
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

demo: ## the story of a pool wait that creeps for three hours, on a real Prometheus; ARGS="--config sinks.yaml"
	@$(SETUP)/debian prometheus:prometheus
	@$(SETUP)/python demo
	@$(BIN)/foreshock demo $(ARGS)

test: ## lint, types, import contracts and tests; what CI runs
	@$(SETUP)/debian prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager chromium:chromium \
	  java:default-jre-headless mvn:maven 'file=/usr/lib/postgresql/*/bin/postgres:postgresql'
	@$(SETUP)/python test
	@$(MAKE) --no-print-directory lint types contracts
	@tools/envtest/build >/dev/null
	@tools/kafka/fetch >/dev/null
	@$(MAKE) --no-print-directory unit

lint: ## style and format
	@$(SETUP)/python test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: ## mypy, strict
	@$(SETUP)/python test
	$(BIN)/mypy

contracts: ## imports point down
	@$(SETUP)/python test
	$(BIN)/lint-imports

# Two workers, a file at a time, so that a server that a module starts is started once.
unit: ## the tests alone; ARGS='tests/manifests -k cron' picks some
	@$(SETUP)/python test
	$(BIN)/python -m pytest -n 2 --dist loadfile $(ARGS)

bench: ## performance beside the plain pipeline and the peers, on a real Prometheus
	@$(SETUP)/debian prometheus:prometheus prometheus-alertmanager:prometheus-alertmanager java:default-jre-headless \
	  mvn:maven c++:g++ file=/usr/include/python3.11/Python.h:libpython3.11-dev
	@$(SETUP)/python bench
	@tools/kafka/fetch >/dev/null
	@$(BIN)/python -m bench.main
	@echo "How well it detects, beside the peers, is measured by: make quality DATA=folder"

# DATA is a folder of labelled datasets (docs/quality.md says which); ARGS='--datasets d2,asd --modes adapt' runs a part.
quality: ## detection on labelled data beside the peers; DATA=folder, OUT=build/quality
	@test -n "$(DATA)" || { echo "quality: name the folder of the labelled data: make quality DATA=folder" >&2; exit 2; }
	@$(SETUP)/python quality
	@$(BIN)/python -m bench.quality --data "$(DATA)" --out "$(or $(OUT),build/quality)" $(ARGS)

fleet: ## ten thousand detectors on a real API server: memory, CPU, lag, an outage; ten minutes
	@$(SETUP)/debian prometheus:prometheus
	@$(SETUP)/python test
	@$(BIN)/python -m bench.operator

lock: ## resolve requirements.lock again; releases wait a week before they are taken
	@$(SETUP)/lock

clean: ## remove everything that the targets made, but no state of `foreshock run`
	rm -rf .venv build dist foreshock-demo .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find src tests bench demo tools -name __pycache__ -type d -prune -exec rm -rf {} +
