# make demo    the whole path on simulated projects        make test    the fast tests, some minutes
# make env     the environment alone (.venv); GPU=1 adds TensorFlow's GPU libraries
# make test-all   every test: fast, slow, and those that need SLURM, Docker, Apptainer, pickers or Chromium
# make explore    tests with generated inputs, on new inputs
# make lint types docs lock images clean
#
# PYTHON=python3.12 chooses an interpreter (3.11 to 3.13); ARGS="..." goes to the command behind demo, test and images.
.DELETE_ON_ERROR:
.PHONY: help demo test test-slow test-site test-all explore env lint format types front-end docs lock images clean

BIN := .venv/bin
MADE := $(if $(filter 1,$(GPU)),.venv/with-gpu,.venv/made-from-lock)
PYTEST := $(BIN)/python -m pytest
SITE := slurm or slurmrestd or docker or apptainer or pickers or browser or nginx
ARGS :=

help:
	@sed -n '1,7s/^# \?//p' Makefile

env: $(MADE)

$(MADE): requirements.lock pyproject.toml .ci/env
	@GPU=$(GPU) sh .ci/env

demo: $(MADE)
	$(BIN)/cryoflow demo --output demo $(ARGS)

# The lanes: what runs in parallel on any machine; training, kills and pipelines; what needs parts of a site.
test: $(MADE)
	$(PYTEST) -n auto --dist worksteal -m "not slow and not ($(SITE))" $(ARGS)

test-slow: $(MADE)
	$(PYTEST) -n 2 --dist loadscope --no-loadscope-reorder -m "slow and not ($(SITE))" $(ARGS)

test-site: $(MADE)
	$(BIN)/python tests/cluster/cpu_image.py
	$(PYTEST) -n 2 --dist loadgroup --timeout 1500 -m "$(SITE)" $(ARGS)

test-all: test test-slow test-site

# Tests with generated inputs, on inputs that were not tried before; ROUNDS=20 for a night.
ROUNDS := 1
explore: $(MADE)
	for round in $$(seq $(ROUNDS)); do \
	    HYPOTHESIS_PROFILE=explore $(PYTEST) -n auto --dist worksteal -m "hypothesis and not ($(SITE))" $(ARGS) || exit; \
	done

lint: $(MADE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml

format: $(MADE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(MADE)
	$(BIN)/mypy

# The viewer's JavaScript, checked by the types in its comments; needs Node.js.
front-end:
	npx --yes --package typescript@5.9 tsc -p cryoflow/view/tsconfig.json

# The site in build/docs, without a network; a broken link or reference is an error.
docs: $(MADE)
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs build/docs

# Exact pins of everything, for every supported Python, without any address of a package index.
lock: $(MADE)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header \
	    --all-extras --group topaz $(ARGS) pyproject.toml -o requirements.lock

# With Docker, Apptainer or whichever is here. ARGS="--apptainer cpu" for less; containers/build says what there is.
images:
	containers/build $(ARGS)

clean:
	rm -rf .venv build dist demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
