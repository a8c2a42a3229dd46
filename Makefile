# `make demo` and `make test` are all a new user needs; both bring the machine up to what they need first.
.PHONY: demo test quick cluster-test lint fix reference coverage bench setup clean

# Tests start hundreds of Pythons; a shell that forbids compiled modules would have each compile them anew.
unexport PYTHONDONTWRITEBYTECODE

demo: setup
	@.venv/bin/pytest --pyargs pytest_istio_sidecar.suite --istio-environment=embedded

test: setup
	@.venv/bin/pytest -n auto --maxprocesses=4 --dist worksteal

# The round made while working: what takes longer is in tests/slow, and where a kernel or a pod is needed.
quick: lint
	@.venv/bin/pytest -n auto --maxprocesses=4 --dist worksteal tests/unit tests/plugin

# On a real kind cluster of the test bed beside the checkout (tests/cluster/README.md); skips without one.
cluster-test: setup
	@.venv/bin/pytest tests/cluster -n 3 --dist loadfile

lint: setup
	@scripts/lint

# What of it a program can put right.
fix: setup
	@.venv/bin/ruff check --quiet --fix
	@.venv/bin/ruff format --quiet

reference: setup
	@.venv/bin/python scripts/reference.py

coverage: setup
	@.venv/bin/coverage run -m pytest
	@.venv/bin/coverage combine --quiet
	@.venv/bin/coverage report

# The parsers that are measured against are installed for this only, in an environment of its own.
bench: setup
	@UV_PROJECT_ENVIRONMENT=.venv-bench .venv/bin/uv sync --quiet --locked --no-default-groups --group bench
	@.venv-bench/bin/python benchmarks/run.py

setup:
	@scripts/setup

clean:
	rm -rf .venv .venv-bench .coverage .coverage.* .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache build dist
