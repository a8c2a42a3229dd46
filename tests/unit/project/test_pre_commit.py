"""What is run at each commit is a part of `make lint`, with the tools of .venv and nothing from a network."""

from pathlib import Path

import yaml

CHECKOUT = Path(__file__).parents[3]
HOOKS = [
    (repository["repo"], hook)
    for repository in yaml.safe_load((CHECKOUT / ".pre-commit-config.yaml").read_text())["repos"]
    for hook in repository["hooks"]
]


def test_every_hook_is_a_program_of_the_checkouts_own_environment():
    assert {repository for repository, _ in HOOKS} == {"local"}
    assert {hook["language"] for _, hook in HOOKS} == {"system"}
    assert all(hook["entry"].startswith(".venv/bin/") for _, hook in HOOKS)


def test_every_hook_is_a_check_of_lint_of_the_same_name():
    lint = (CHECKOUT / "scripts" / "lint").read_text()
    assert all(f'check "{hook["id"]}" {Path(hook["entry"].split()[0]).name} ' in lint for _, hook in HOOKS)
