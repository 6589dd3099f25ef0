# Needs nothing but make and a Python of 3.11 or newer.
#
#   make demo     collect, train, calibrate, evaluate, report: minutes on two cores
#   make test     the whole suite
#   make lint     ruff and pyink, changing nothing
#   make format   the same, mending what they can
#   make hooks    run the checks before each commit
#
# `demo` installs the base package alone; the others add the `dev` extra, whose
# torch is for tests only. Its CPU build is enough; to take it from PyTorch's own
# index: make test PIP_ARGS='--extra-index-url <the index>'.

VENV ?= .venv
VARIANT ?= demo
WORKDIR ?= runs/$(VARIANT)
JOBS ?= 2
TESTS ?= tests
PIP_ARGS ?=

# True of an interpreter that is new enough and can make environments.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
# 3.11 first: it is the version that constraints.txt was resolved on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c '$(USABLE)' >/dev/null 2>&1 && { command -v $$p; break; }; done)

BASE := $(VENV)/.base-installed
DEV := $(VENV)/.dev-installed
NOTEBOOKS = $(wildcard experiments/colab/*.ipynb)

.PHONY: demo test lint format hooks notebooks install install-dev

demo: $(BASE)
	$(VENV)/bin/python -m experiments.pipeline \
	  --config=configs/arithmetic.py:$(VARIANT) --workdir=$(WORKDIR)

test: $(DEV)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile $(TESTS)

lint: $(DEV)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyink --check --quiet . || \
	  { echo 'pyink would change files; run: make format' >&2; exit 1; }

format: $(DEV)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/pyink --quiet .

hooks: $(DEV)
	$(VENV)/bin/pre-commit install

# Each notebook, top to bottom; an error in a cell is an error here.
notebooks: $(DEV)
	@set -e; for notebook in $(NOTEBOOKS); do \
	  $(VENV)/bin/jupyter execute $$notebook; done

install: $(BASE)
install-dev: $(DEV)

# $(call pip_install,what): into $(VENV), which is made where it is missing.
define pip_install
@test -n '$(PYTHON)' && '$(PYTHON)' -c '$(USABLE)' || { echo \
  "No usable Python: need 3.11 or newer with venv, got '$(PYTHON)'." \
  'Set PYTHON=/path/to/python3.11.' >&2; exit 1; }
@echo 'Installing $(1) into $(VENV); the first time takes some minutes.'
test -x $(VENV)/bin/python || '$(PYTHON)' -m venv $(VENV)
$(VENV)/bin/python -m pip install -q --disable-pip-version-check \
  -e '$(1)' -c constraints.txt $(PIP_ARGS)
endef

$(BASE): setup.py constraints.txt
	$(call pip_install,.)
	@touch $@

$(DEV): setup.py constraints.txt
	$(call pip_install,.[dev])
	@touch $(BASE) $@
