"""The words a user chooses an environment with.

Knows the accepted words and nothing else, so that options can be checked at no cost.
"""

from __future__ import annotations

from enum import StrEnum


class EnvironmentName(StrEnum):
    """Where the rules under test are."""

    KIND = "kind"
    EXISTING = "existing"
    EMBEDDED = "embedded"
    FILE = "file"


class Injection(StrEnum):
    """How the sidecar comes into the pod."""

    KUBE_INJECT = "kube-inject"
    WEBHOOK = "webhook"


class ReaderName(StrEnum):
    """By which way the pod is read."""

    AUTO = "auto"
    EXEC = "exec"
    NODE = "node"
    DEBUG = "debug"
    NAMESPACE = "namespace"
    FILE = "file"


class Keep(StrEnum):
    """Whether a cluster outlives its run."""

    NEVER = "never"
    FAILED = "failed"
    ALWAYS = "always"
