# Every target works on a fresh machine: deploy/bootstrap.py makes the virtual environment it needs.
SHELL := /bin/sh
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BOOTSTRAP := $(PYTHON) deploy/bootstrap.py

.DEFAULT_GOAL := help
.PHONY: help serve test check bench lock clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: ## Set up everything and serve the demo on 127.0.0.1:8000 (REPERTORY_PORT changes the port)
	@exec $(BOOTSTRAP) serve

test: ## Run all tests, the real engine included
	@exec $(BOOTSTRAP) test

check: ## Format, lint, types and import rules
	@exec $(BOOTSTRAP) check

bench: ## Measure the gateway's overhead beside its budgets
	@exec $(BOOTSTRAP) bench

lock: ## Write deploy/requirements anew from what is installed in .venv
	@exec $(BOOTSTRAP) lock

clean: ## Remove the virtual environment and all state (asks first)
	@printf 'Remove .venv and .repertory, with every key, file and adapter? [y/N] '; \
	read answer; [ "$$answer" = y ] && rm -rf .venv .repertory || echo 'Nothing was removed.'
