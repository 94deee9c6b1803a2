# Plain recipes; `make help` lists them. VENV, PYTHON and ONCE may come from the environment.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
# The versions this tree was tested with; a plain `pip install .` takes whatever pyproject.toml allows.
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
# The node of `make run` keeps its files here, apart from a node you may run yourself.
export THALOOM_HOME ?= $(CURDIR)/.thaloom

.DEFAULT_GOAL := help
.PHONY: help run test explore check check-full bench bench-engine bench-quality load wheel docs goldens sanitize sanitize-all fuzz fuzz-formats fuzz-door schemas schemathesis aarch64 clean deps-system

help:            ## this list
	@grep -hE '^[a-z0-9-]+: .*##|^[a-z0-9-]+:  +##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

$(BIN)/thaloom: pyproject.toml constraints.txt hatch_build.py $(wildcard native/cpu/*)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(INSTALL) --editable .
	touch $@

$(BIN)/pytest: $(BIN)/thaloom
	$(INSTALL) --editable '.[dev]'
	touch $@

run: $(BIN)/thaloom   ## boot a node, load the bundled model, ask it a prompt; stays up until Ctrl-C (ONCE=1: stops by itself)
	@sh tools/first_run.sh $(BIN)

test: $(BIN)/pytest   ## every test that is not slow, but those of test-guests: some minutes on two cores
	$(BIN)/pytest -q -n 4 --dist worksteal -m 'not slow' --ignore tests/guests $(if $(REPORT),--junit-xml=$(REPORT))

explore: $(BIN)/pytest   ## properties, and the door held to its document, by examples drawn anew (in CI they are always the same)
	SCHEMATHESIS_EXAMPLES=60 $(BIN)/pytest -q -n 4 --dist worksteal tests/property tests/contract/edge/test_document.py

check: $(BIN)/pytest  ## format, lint, types, floors, unit and property tests
	$(BIN)/ruff format --check src tests tools benchmarks models hatch_build.py
	$(BIN)/ruff check src tests tools benchmarks models hatch_build.py
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -m 'not slow' tests/unit tests/property

check-full: $(BIN)/pytest  ## everything, in lanes with time budgets: what CI runs
	$(BIN)/python tools/lanes.py

bench: $(BIN)/thaloom ## measure a node of this machine and write dated records under benchmarks/records
	$(BIN)/python benchmarks/node.py && $(BIN)/python benchmarks/recovery.py

bench-engine: $(BIN)/thaloom ## install and run other engines beside ours (hours the first time; SHORT=1: does the harness work)
	$(BIN)/python -m benchmarks.engine $(if $(SHORT),--short) $(ARGS)

load: $(BIN)/thaloom  ## the door alone: 1,000 streams, 10,000 abandoned connections, a million requests (SHORT=1: as CI)
	$(BIN)/python -m benchmarks.load $(if $(SHORT),--short) $(ARGS)

bench-quality: $(BIN)/pytest ## what each format costs in perplexity and KL, on documents the bundled model never saw
	test -x $(VENV)-quality/bin/python || $(PYTHON) -m venv $(VENV)-quality
	$(VENV)-quality/bin/python -m pip install --quiet --disable-pip-version-check lxml
	$(VENV)-quality/bin/python benchmarks/heldout.py $(VENV)-quality/heldout
	$(BIN)/python benchmarks/quality.py $(VENV)-quality/heldout/heldout.jsonl --random $(VENV)-quality $(ARGS)

wheel: $(BIN)/pytest  ## dist/thaloom-*.whl with the native library inside: installs without a compiler
	rm -rf dist && $(BIN)/python -m build --quiet --wheel --outdir dist . && ls -l dist

.PHONY: deb
deb: wheel            ## dist/thaloom_*.deb: the node as a system service, with everything it needs but Python
	$(BIN)/python tools/deb.py dist/thaloom-*.whl

docs: $(BIN)/pytest   ## write what is generated again (docs/errors.md, docs/cli.md, the SDK without an event loop)
	$(BIN)/python tools/generate_docs.py
	$(BIN)/python tools/generate_sync_client.py

.PHONY: man
man: $(BIN)/thaloom   ## write the manual, English and Chinese, below build/man; read it: man build/man/man1/thaloom.1
	$(BIN)/python -m thaloom.user.cli.manual build/man

goldens:              ## make the golden logits again, with torch and transformers in an environment of their own
	$(PYTHON) -m venv $(VENV)-goldens && $(VENV)-goldens/bin/pip install --quiet --editable '.[goldens]'
	$(VENV)-goldens/bin/python tests/goldens/make.py

.PHONY: test-guests
test-guests:          ## the engines of others for real: transformers (installs torch), llama.cpp where there is one
	test -x $(VENV)-guests/bin/python || $(PYTHON) -m venv $(VENV)-guests
	$(VENV)-guests/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,transformers]'
	$(VENV)-guests/bin/pytest -q tests/guests

sanitize: $(BIN)/pytest  ## the native library's tests under address and undefined-behaviour sanitizers
	$(MAKE) -C native sanitize PYTHON=$(abspath $(BIN))/python

sanitize-all: $(BIN)/pytest  ## the same for every suite that runs the native library; takes long, so not in check-full
	$(MAKE) -C native sanitize PYTHON=$(abspath $(BIN))/python TESTS="tests/unit/hal_cpu \
	  tests/contract/hal tests/contract/runtime tests/property/runtime"

fuzz: $(BIN)/pytest   ## mutated programs and steps against the sanitized native library
	$(MAKE) -C native fuzz PYTHON=$(abspath $(BIN))/python

fuzz-formats: $(BIN)/pytest  ## 100,000 mutated safetensors and GGUF files against their readers
	$(BIN)/python -m tests.fuzz_formats --cases 100000

fuzz-door: $(BIN)/pytest  ## 100,000 fuzzed requests to a real node: all answered, nothing left behind
	$(BIN)/python -m tests.fuzz_door --cases $(or $(CASES),100000) --record

.PHONY: fuzz-pages
fuzz-pages: $(BIN)/pytest  ## 10 minutes of workers that share a device's pages and are killed: nothing is sold twice, nothing leaks (MINUTES=, SEED=)
	$(BIN)/python -m tests.fuzz_pages --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)

.PHONY: fuzz-turns
fuzz-turns: $(BIN)/pytest  ## 10 minutes of workers that take turns and are killed and stopped: nobody waits for good (MINUTES=, SEED=)
	$(BIN)/python -m tests.fuzz_turns --minutes $(or $(MINUTES),10) --seed $(or $(SEED),1)

.PHONY: chaos
chaos: $(BIN)/pytest  ## 20 minutes of kill -9, full disks and revoked keys while clients stream; nothing else may fail (MINUTES=, SEED=)
	$(BIN)/python -m tests.chaos --minutes $(or $(MINUTES),20) --seed $(or $(SEED),1) $(ARGS)

.PHONY: crash-points
crash-points: $(BIN)/pytest  ## killed at every write of the journal and cut at every flush, not only at some: actions, the reconciler's steps, jobs
	THALOOM_ALL_POINTS=1 $(BIN)/pytest -q -n 2 --dist worksteal tests/system/test_action_crashes.py tests/system/test_step_crashes.py tests/system/test_job_crashes.py tests/system/test_power_loss.py

schemas: $(BIN)/pytest  ## 1,000 random JSON schemas: every answer of the bundled model is valid
	$(BIN)/python -m tests.follow_schemas --schemas 1000 --record

schemathesis: $(BIN)/pytest  ## the door held to its OpenAPI document, with many examples of each operation
	SCHEMATHESIS_EXAMPLES=$(or $(EXAMPLES),500) $(BIN)/pytest -q --timeout 0 tests/contract/edge/test_document.py

aarch64: $(BIN)/pytest  ## cross-compile for 64-bit ARM and run the driver's tests on emulated processors (no speed)
	$(BIN)/python tools/aarch64.py

deps-system:          ## system packages the tests use, from the distribution
	sh tools/deps_system.sh

clean:                ## forget everything built here (not your models)
	rm -rf $(VENV) $(VENV)-goldens $(VENV)-guests $(VENV)-quality build dist .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
