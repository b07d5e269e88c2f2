# One verb each. Every verb sets up what it needs; ARGS= goes to the program behind it.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help setup demo test check bench parity soak faults
BIN := .venv/bin
export PATH := $(PATH):/usr/sbin:/sbin

help:            ## this list
	@sed -n 's/^\([a-z]*\): .*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup:           ## install what is missing: Debian packages, .venv
	@scripts/setup

demo: setup      ## a foundation in a box plays its story with real packets  (ARGS="--check --json")
	@$(BIN)/cfbridge demo $(ARGS)

test: setup      ## all suites, in order  (ARGS="tests/egress -k sticky": one pytest run)
	@$(BIN)/python scripts/test $(ARGS)

check: setup     ## format, lint, types, import contracts, fast tests: under a minute
	@$(BIN)/ruff format --check --quiet . && echo "format: well"
	@$(BIN)/ruff check --quiet . && echo "lint: well"
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m pytest -q -m "not packets and not postgres" -n 2

bench: setup     ## what it costs, beside a peer or a floor  (ARGS="--only policy_latency")
	@$(BIN)/python -m bench $(ARGS)

parity: setup    ## oracle against real packets  (ARGS="--dataplane linux --worlds 200 --seed 7")
	@$(BIN)/python -m tests.parity $(ARGS)

soak: setup      ## half an hour of everything at once  (ARGS="--minutes 30 --seed 7 --json")
	@$(BIN)/python -m tests.soak $(ARGS)

faults: setup    ## bridge and agent die between any two operations; 60 minutes  (ARGS="--minutes 15 --only agent")
	@$(BIN)/python -m tests.faults $(ARGS)
