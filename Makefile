# make demo    the whole path on simulated projects        make test    the tests
# make env     the environment alone (.venv)               make lint types lock images clean
#
# PYTHON=python3.12 chooses an interpreter (3.11 to 3.13), ARGS="..." is handed on to the command behind demo and test.
.DELETE_ON_ERROR:
.PHONY: help demo test env lint format types lock images clean

BIN := .venv/bin
MADE := .venv/made-from-lock
ARGS :=

help:
	@sed -n '1,4s/^# \?//p' Makefile

env: $(MADE)

$(MADE): requirements.lock pyproject.toml .ci/env
	@sh .ci/env

demo: $(MADE)
	$(BIN)/cryoflow demo --output demo $(ARGS)

test: $(MADE)
	$(BIN)/python -m pytest $(ARGS)

lint: $(MADE)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(MADE)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(MADE)
	$(BIN)/mypy

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
