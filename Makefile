# make demo: set-up and the main job.   make test: set-up and the tests.   Nothing else is needed first.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || command -v python3)
BIN := .venv/bin

.PHONY: setup sshd test retest check demo bench mutants chaos aws-smoke clean
setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

sshd:                   # in CI the tests get OpenSSH's server, which is not started; elsewhere those that want it are skipped without it
	@[ -z "$$CI" ] || [ -x /usr/sbin/sshd ] || [ "$$(id -u)" != 0 ] || ! command -v apt-get >/dev/null || { apt-get -qq update && \
	RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends openssh-server; } >/dev/null || true

test: setup sshd
	$(BIN)/python -m pytest

retest: setup           # the tests that failed the last time, one after the other; many of them are no accident
	$(BIN)/python tests/retest.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: setup            # small; all of it, with the peers that are installed: .venv/bin/python benchmarks/grid.py
	$(BIN)/python benchmarks/grid.py --rounds 1 --scale 0.2 --only gridworker,gridworker-bare,limits

mutants: setup          # each patch of tests/mutants takes away one mechanism of safety, and a test must notice
	$(BIN)/python tests/mutants/run.py

SEEDS ?= 2000
chaos: setup            # launches on SEEDS bad days, and controllers killed at every moment; the last line is one JSON object
	$(BIN)/python tests/chaos/run.py --seeds $(SEEDS)

NAME ?= default
aws-smoke: setup        # on your own AWS account, after `fleetctl setup apply`: two machines for some minutes, about a cent; it asks first
	@$(BIN)/python -c "import boto3; exit(boto3.Session().get_credentials() is None)" || \
		{ echo "make aws-smoke works on an AWS account, and there are no credentials: run 'aws configure', or set AWS_PROFILE"; exit 1; }
	$(BIN)/fleetctl setup status $(NAME) --cloud aws --self-test

demo: setup
	$(BIN)/fleetctl demo

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
