"""What the user asked for, from command line, ini file and defaults.

Knows what each option may be, and their order of precedence. Does not know what is done
with them. Invariant: a `Settings` is valid; what cannot be meant has been refused with the
accepted values named.
"""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import pytest

from pytest_istio_sidecar.environments.choices import EnvironmentName, Injection, Keep, ReaderName, ReportForm
from pytest_istio_sidecar.plugin import messages
from pytest_istio_sidecar.plugin.options import OPTIONS, Option

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_VERSION = "1.8.3"
_DEFAULT_CLUSTER = "pytest-kind"
"""The name that pytest-kind gives when none is given."""


Choice = TypeVar("Choice", bound=StrEnum)


class Settings(NamedTuple):  # made at every start of pytest: a dataclass takes four times as long
    """The options of this run, checked; None where neither given nor defaulted."""

    environment: EnvironmentName
    version: str = DEFAULT_VERSION
    version_given: bool = False
    tables: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    reviewed_bypasses: Path | None = None
    evidence: Path | None = None
    timeout: float = 300.0
    istioctl: str | None = None
    values: tuple[str, ...] = ()
    hub: str | None = None
    images: tuple[str, ...] = ()
    node_image: str | None = None
    kind_config: Path | None = None
    context: str | None = None
    kubeconfig: Path | None = None
    namespace: str = "default"
    workloads: tuple[str, ...] = ("deployment/httpbin",)
    injection: Injection = Injection.KUBE_INJECT
    reader: ReaderName = ReaderName.AUTO
    keep: Keep = Keep.NEVER
    reuse: bool = False
    traffic: bool = False
    make_privileged: bool = False
    cluster: str | None = None
    kind: str | None = None
    kubectl: str | None = None

    @classmethod
    def from_config(cls, config: pytest.Config) -> Settings:
        """Read the options; the command line wins over the ini file, both over the default.

        Raises:
            pytest.UsageError: a value that cannot be meant; the message names the accepted ones.
        """
        values = {option.key: _value(config, option) for option in OPTIONS}
        environment = _one_of(EnvironmentName, "--istio-environment", values["istio_environment"])
        tables = values["istio_table"]
        if environment is EnvironmentName.FILE and not tables:
            raise pytest.UsageError(str(messages.TABLE_MISSING()))
        if tables and environment is not EnvironmentName.FILE:
            raise pytest.UsageError(str(messages.TABLE_WITHOUT_FILE(environment=environment)))
        version = _only(values["istio_version"])
        if version is not None and not re.fullmatch(r"\d+\.\d+(\.\d+)?([-+][\w.-]+)?", version):
            raise pytest.UsageError(str(messages.NO_VERSION(version=version, known=DEFAULT_VERSION)))
        for value in values["istio_set"]:
            if not re.fullmatch(r"[^=\s]+=.*", value):
                raise pytest.UsageError(str(messages.NOT_KEY_VALUE(value=value)))
        for option in values["istio_option"]:
            if not re.fullmatch(r"\w+=.*", option):
                raise pytest.UsageError(str(messages.NO_OPTION(option=option)))
        if values["istio_option"] and environment not in (EnvironmentName.EMBEDDED, EnvironmentName.FILE):
            raise pytest.UsageError(str(messages.OPTION_OF_POD(environment=environment)))
        folder = config.invocation_params.dir
        return cls(
            environment=environment,
            version=version or DEFAULT_VERSION,
            version_given=version is not None,
            tables=tuple(tables),
            options=tuple(values["istio_option"]),
            reviewed_bypasses=_existing(
                folder, "--istio-reviewed-bypasses", values["istio_reviewed_bypasses"]
            ),
            evidence=_path(folder, values["istio_evidence"]),
            timeout=_seconds("--istio-timeout", values["istio_timeout"][0]),
            istioctl=_only(values["istio_istioctl"]),
            values=tuple(values["istio_set"]),
            hub=_only(values["istio_hub"]),
            images=tuple(values["istio_load_image"]),
            node_image=_same(
                config, "--istio-node-image", values["istio_node_image"], "--kind-image", "kind_image"
            ),
            kind_config=_existing(folder, "--istio-kind-config", values["istio_kind_config"]),
            context=_only(values["istio_context"]),
            kubeconfig=_path(
                folder,
                [
                    _same(
                        config, "--istio-kubeconfig", values["istio_kubeconfig"], "--kubeconfig", "kubeconfig"
                    )
                ],
            ),
            namespace=_only(values["istio_namespace"]) or "default",
            workloads=tuple(values["istio_workload"]) or ("deployment/httpbin",),
            injection=_one_of(Injection, "--istio-injection", values["istio_injection"]),
            reader=_one_of(ReaderName, "--istio-reader", values["istio_reader"]),
            keep=_keep(config, values["istio_keep"]),
            reuse=bool(values["istio_reuse"]),
            traffic=bool(values["istio_traffic"]),
            make_privileged=bool(values["istio_make_privileged"]),
            cluster=_of_pytest_kind(config, "cluster_name"),
            kind=_of_pytest_kind(config, "kind_bin"),
            kubectl=_of_pytest_kind(config, "kind_kubectl_bin"),
        )


def report_paths(config: pytest.Config) -> tuple[Path, ...]:
    """The reports to write.

    Raises:
        pytest.UsageError: one of no known form.
    """
    (option,) = (held for held in OPTIONS if held.key == "istio_report")
    names = _value(config, option)
    for name in names:
        if Path(name).suffix not in tuple(ReportForm):
            raise pytest.UsageError(str(messages.NO_REPORT(name=name, known=", ".join(ReportForm))))
    return tuple(config.invocation_params.dir / name for name in names)


def asked(config: pytest.Config) -> tuple[str, ...]:
    """The options that were given, on the command line or in the ini file, as they are written."""
    return tuple(
        option.name if option.flag else f"{option.name}={value}"
        for option in OPTIONS
        if config.getoption(option.key) or config.getini(option.key)
        for value in _value(config, option)
    )


def _value(config: pytest.Config, option: Option) -> list[str]:
    """The option's value or values; none at all where neither it nor its ini twin nor a default is given."""
    chosen: object = config.getoption(option.key)
    if not chosen:
        chosen = config.getini(option.key) or option.default
    if isinstance(chosen, list):
        return [str(value) for value in chosen]
    return [str(chosen)] if chosen else []


def _only(values: Sequence[str]) -> str | None:
    return values[0] if values else None


def _path(folder: Path, values: Sequence[str | None]) -> Path | None:
    return folder / values[0] if values and values[0] else None


def _existing(folder: Path, name: str, values: Sequence[str]) -> Path | None:
    path = _path(folder, values)
    if path is not None and not path.is_file():
        raise pytest.UsageError(str(messages.NO_SUCH_FILE(option=name, value=values[0])))
    return path


def _one_of(kind: type[Choice], name: str, values: Sequence[str]) -> Choice:
    try:
        return kind(values[0])
    except ValueError:
        raise pytest.UsageError(
            str(messages.NO_CHOICE(option=name, value=values[0], known=", ".join(kind)))
        ) from None


def _of_pytest_kind(config: pytest.Config, key: str) -> str | None:
    """An option of pytest-kind's, where that plugin is loaded and the option is given."""
    value: object = config.getoption(key, default=None)
    return str(value) if value and value != _DEFAULT_CLUSTER else None


def _same(config: pytest.Config, ours: str, values: Sequence[str], theirs: str, key: str) -> str | None:
    """An option that both plugins have.

    Raises:
        pytest.UsageError: both are given, and differ.
    """
    value, other = _only(values), _of_pytest_kind(config, key)
    if value and other and value != other:
        raise pytest.UsageError(
            str(messages.PLUGINS_DIFFER(ours=ours, value=value, theirs=theirs, other=other))
        )
    return value or other


def _keep(config: pytest.Config, values: Sequence[str]) -> Keep:
    keep = _one_of(Keep, "--istio-keep", values)
    if not config.getoption("keep_cluster", default=False):
        return keep
    if config.getoption("istio_keep") and keep is not Keep.ALWAYS:
        raise pytest.UsageError(str(messages.KEEP_DIFFERS(keep=keep)))
    return Keep.ALWAYS


def _seconds(name: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds <= 86_400:
        raise pytest.UsageError(str(messages.NO_SECONDS(option=name, text=text)))
    return seconds
