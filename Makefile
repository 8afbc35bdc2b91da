# Two commands on a fresh machine: `make demo` and `make test`. Everything lands in .venv and demo/.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
PY312  ?= $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12*/bin/python3.12) $(shell command -v python3.12 2>/dev/null))
PY312_WORKS := $(shell test -n "$(PY312)" && $(PY312) -c "import venv" 2>/dev/null && echo yes)
WORKERS ?= 2
TORCH  ?= torch==2.13.0

.PHONY: demo serve drive chaos test test-fast compat lint bench fuzz clean

$(VENV)/.annotate: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "want Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[annotate]'
	touch $@

# torch by itself and first: what comes after it must not choose another build. xgrammar without triton: 1 GB that a CPU does
# not use; gym-pusht without the OpenCV that wants a screen
$(VENV)/.dev: $(VENV)/.annotate
	$(BIN)/pip install -q '$(TORCH)'
	$(BIN)/pip install -q -e '.[dev]'
	$(BIN)/pip install -q --no-deps xgrammar apache-tvm-ffi 'gym-pusht>=0.1.8,<0.2'
	touch $@

demo: $(VENV)/.annotate ## make a small dataset, annotate it without a model, show the result
	$(BIN)/annotate demo --dir=demo

$(VENV)/.replay: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "want Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q -e '.[replay]'
	touch $@

serve: $(VENV)/.replay ## make a small recording and serve it: robots get its actions back; no weights, no GPU
	mkdir -p demo/serve
	test -f demo/serve/manifest.yaml || $(BIN)/serving init demo/serve/manifest.yaml
	$(BIN)/serving up demo/serve/manifest.yaml

drive: $(VENV)/.replay ## while `make serve` runs: a recorded robot is driven by it
	$(BIN)/edge run --policy.path=demo/serve/recording --robot.type=dataset --robot.root=demo/serve/recording

chaos: $(VENV)/.dev ## ten minutes of killed, hung and restarted servers and routers, losses, delays and garbage
	CUEBOOK_CHAOS_S=600 $(BIN)/pytest -q tests/edge/test_chaos.py --timeout=1200

test: $(VENV)/.dev ## all tests, the slow ones too
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup

test-fast: $(VENV)/.dev ## what runs in a minute or two
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m 'not slow and not compat'

$(VENV)-compat/.done: tests/compat/requirements.txt
	$(PY312) -m venv $(VENV)-compat
	$(VENV)-compat/bin/pip install -q -r tests/compat/requirements.txt
	touch $@

ifeq ($(PY312_WORKS),yes)
compat: $(VENV)/.dev $(VENV)-compat/.done ## what is held to LeRobot itself (Python 3.12): its loader, its renderer, served checkpoints
	CUEBOOK_COMPAT_PYTHON=$(abspath $(VENV))-compat/bin/python $(BIN)/pytest -m compat tests/compat tests/interchange
else
compat:
	@echo "compat: no Python 3.12 here: nothing was held to LeRobot itself"
endif

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

fuzz: $(VENV)/.dev ## ten minutes of hostile input for the wire's decoders
	$(BIN)/pip install -q -e '.[fuzz]'
	$(BIN)/python -m bench.fuzz_wire --engine=atheris --minutes=10

bench: $(VENV)/.dev ## tables of measured figures beside their bars
	$(BIN)/python -m bench.bench_listing
	$(BIN)/python -m bench.bench_validate
	$(BIN)/python -m bench.bench_writer
	$(BIN)/python -m bench.bench_prompt
	$(BIN)/python -m bench.bench_client
	$(BIN)/python -m bench.bench_evaluate
	$(BIN)/python -m bench.bench_language
	$(BIN)/python -m bench.bench_snapping
	$(BIN)/python -m bench.bench_annotate
	$(BIN)/python -m bench.serving
	$(BIN)/python -m bench.edge

clean:
	rm -rf $(VENV) $(VENV)-compat demo bench/work
