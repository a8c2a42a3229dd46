"""A command line and the variables of istio-iptables, read as the program itself reads them.

Knows its flags, what pflag makes of words, which variable each release heeds, and which of the two counts.
Does not know where a pod keeps them (`pod_options`), nor what the options do. Invariant: what the program
takes is taken, be it nonsense; what it ends on is refused.

Sources: github.com/spf13/pflag flag.go (parseArgs, parseLongArg, parseSingleShortArg); istio/istio
tools/istio-iptables/pkg/cmd/root.go at every tag, pkg/flag (BindEnv), tools/common/config.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pytest_istio_sidecar.errors import UsageProblem
from pytest_istio_sidecar.istio import messages, ports
from pytest_istio_sidecar.istio import option_kinds as kinds
from pytest_istio_sidecar.istio.option_table import OPTIONS
from pytest_istio_sidecar.istio.versions import Number

PROGRAM = "istio-iptables"
_FLAGS = {flag: option for option in OPTIONS for flag in option.flags}
_DUAL_STACK, _SKIP = "--dual-stack", "--skip-rule-apply"
_OTHER_TEXT = frozenset((
    "--iptables-probe-port", "--probe-timeout", "--network-namespace", "--output-paths",
    "--iptables-version", "--force-iptables-binary", "--log_output_level", "--log_caller",
    "--log_rotate", "--log_rotate_max_age", "--log_rotate_max_backups", "--log_rotate_max_size",
    "--log_stacktrace_level", "--log_target", "--vklog",
))  # fmt: skip
_OTHER_TRUTH = frozenset((
    "-n", "--dry-run", "-f", "--restore-format", _SKIP, "--run-validation", "--cni-mode", "--force-apply",
    "--reconcile", "--cleanup-only", "--native-nftables", "--iptables-trace-logging", "--log_as_json",
    "--host-nsenter-exec", _DUAL_STACK,
))  # fmt: skip

VARIABLES_IN_FLAGS_SINCE = ((1, 19, 5), (1, 20, 1))
"""A variable is its flag's default, be it empty, and the name that other components use for it counts more
(pkg/flag). Before, viper took none that is empty, and that other name was but the default."""
AGENT_DUAL_STACK = ((1, 17, 0), (1, 19, 0))
"""From, and before: the variable is ISTIO_AGENT_DUAL_STACK; later it is ISTIO_DUAL_STACK."""
DNS_CAPTURE_SINCE = (1, 8, 0)
"""ISTIO_META_DNS_CAPTURE is true or false; in 1.7, that it or DNS_AGENT is set to anything is enough."""
ROOT_UNTIL = (1, 8, 0)
"""Where no user is named, root's packets may leave too."""

_USERS = {
    "root": 0, "daemon": 1, "bin": 2, "sys": 3, "sync": 4, "games": 5, "man": 6, "lp": 7, "mail": 8,
    "news": 9, "uucp": 10, "proxy": 13, "www-data": 33, "backup": 34, "list": 38, "irc": 39,
    "nobody": 65534,
}  # fmt: skip
"""Users that the proxy's image knows by name beside its own (Debian's base-passwd, passwd.master)."""


class Started(NamedTuple):
    """What a run of istio-iptables was told.

    Attributes:
        fields: of `IstioOptions`.
        dual_stack: whether it looks for an IPv6 address beside its first.
        makes_rules: False where it only looks at those that are there.
    """

    fields: dict[str, Any]
    dual_stack: bool
    makes_rules: bool


def read_command_line(
    arguments: Sequence[str], environment: Mapping[str, str], release: Number | None = None
) -> Started:
    """What a command line says, and the variables where it says nothing.

    Args:
        arguments: with or without the program's name.
        release: whose program it is; None: unknown, so that a variable of any release counts.

    Raises:
        UsageProblem: the program ends on it: an unknown flag, one without its value, a truth that is none.
    """
    chosen: dict[str, Any] = {
        option.name: option.program_default for option in OPTIONS if option.program_default is not None
    }
    truths = {_DUAL_STACK: _dual_stack(environment, release), _SKIP: _asks(environment, "SKIP_RULE_APPLY")}
    chosen |= read_variables(environment, release)
    for flag, value in _flags(arguments):
        option = _FLAGS.get(flag)
        if option is not None:
            chosen[option.name] = kinds.go_truth(flag, value) if option.kind is kinds.truth else value
        elif flag in _OTHER_TRUTH:
            truths[flag] = kinds.go_truth(flag, value)
    for option in OPTIONS:
        if option.kind in (kinds.ranges, kinds.ranges_or_all) and option.name in chosen:
            chosen[option.name] = kinds.Argument(chosen[option.name])
    # Whatever is not TPROXY is redirected (pkg/capture/run.go).
    if chosen.get("inbound_interception_mode") != "TPROXY":
        chosen["inbound_interception_mode"] = "REDIRECT"
    chosen["proxy_uid"] = chosen.get("proxy_uid") or _users(environment, release)
    chosen["proxy_gid"] = chosen.get("proxy_gid") or chosen["proxy_uid"]
    return Started(chosen, truths[_DUAL_STACK], not truths[_SKIP])


def _flags(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Every flag with its value, in order; the last one of a name counts.

    What is no flag is left aside: the program takes any word, and does nothing with it.
    """
    rest = list(arguments)
    if PROGRAM in rest:
        rest = rest[rest.index(PROGRAM) + 1 :]
    while rest:
        word = rest.pop(0)
        if word == "--":
            return
        if word.startswith("--"):
            flag, equals, value = word.partition("=")
            truth = _is_truth(flag)
            yield flag, value if equals else "true" if truth else _next(flag, rest)
        elif word.startswith("-") and word != "-":
            yield from _short(word[1:], rest)


def _short(letters: str, rest: list[str]) -> Iterator[tuple[str, str]]:
    """The flags of a word of letters: truths in a row, and at the end one that has a value."""
    while letters:
        flag, letters = f"-{letters[0]}", letters[1:]
        truth = _is_truth(flag)
        if letters[:1] == "=" and len(letters) > 1:  # `-x=`, without more, gives the value "="
            yield flag, letters[1:]
            return
        if truth:
            yield flag, "true"
        else:
            yield flag, letters or _next(flag, rest)
            return


def _next(flag: str, rest: list[str]) -> str:
    """The value of a flag that has none in its word: the next word, whatever it is."""
    if not rest:
        raise UsageProblem(messages.FLAG_WITHOUT_VALUE(program=PROGRAM, flag=flag))
    return rest.pop(0)


def _is_truth(flag: str) -> bool:
    """Whether a flag stands without a value.

    Raises:
        UsageProblem: it is none.
    """
    if flag in _FLAGS:
        return _FLAGS[flag].kind is kinds.truth
    if flag in _OTHER_TEXT:
        return False
    if flag in ("-h", "--help"):
        raise UsageProblem(messages.ONLY_HELP(program=PROGRAM, flag=flag))
    if flag not in _OTHER_TRUTH:
        raise UsageProblem(messages.NO_FLAG(program=PROGRAM, flag=flag))
    return True


def read_variables(environment: Mapping[str, str], release: Number | None) -> dict[str, Any]:
    """Fields of `IstioOptions` from variables of the program."""
    chosen: dict[str, Any] = {}
    in_flags = release is None or _in_flags(release)
    for option in OPTIONS:
        for variable in option.variables:
            if release is not None and not _is_heeded(variable, release):
                continue
            value = environment.get(variable)
            if value is None or (not value and not in_flags):
                continue
            if option.kind is kinds.truth:
                chosen[option.name] = kinds.is_true(value)
            else:
                chosen[option.name] = value
    return chosen | _dns(environment, release, set_already="redirect_dns" in chosen)


def _in_flags(release: Number) -> bool:
    fixed, next_minor = VARIABLES_IN_FLAGS_SINCE
    return release >= next_minor or fixed <= release < (1, 20, 0)


def _is_heeded(variable: str, release: Number) -> bool:
    if variable == "ENVOY_PORT":
        return not _in_flags(release)
    # viper was given the variable itself for a default, which is no truth, instead of its value.
    return variable != "INVALID_DROP" or _in_flags(release)


def _dns(environment: Mapping[str, str], release: Number | None, *, set_already: bool) -> dict[str, bool]:
    """What the variables of DNS capture say, which had other names and values in 1.6 and 1.7."""
    asked = environment.get("ISTIO_META_DNS_CAPTURE", "")
    by_agent = bool(environment.get("DNS_AGENT"))
    if release is None:
        return _dns_of_any_release(asked, by_agent=by_agent or bool(environment.get("DNS_CAPTURE")))
    if release < (1, 7, 0):
        return {"redirect_dns": bool(environment.get("DNS_CAPTURE"))}
    if release < DNS_CAPTURE_SINCE:
        return {"redirect_dns": by_agent, "dns_by_envoy": bool(asked) and not by_agent}
    if "ISTIO_META_DNS_CAPTURE" not in environment or (set_already and not _in_flags(release)):
        return {}
    return {"redirect_dns": kinds.is_true(asked)}


def _dns_of_any_release(asked: str, *, by_agent: bool) -> dict[str, bool]:
    chosen = {}
    if kinds.is_truth(asked):
        chosen["redirect_dns"] = kinds.is_true(asked)
    elif asked:
        chosen["dns_by_envoy"] = True
    return {**chosen, "redirect_dns": True} if by_agent else chosen


def _dual_stack(environment: Mapping[str, str], release: Number | None) -> bool:
    """Whether the variables ask for both families; the flag counts more."""
    if release is None:
        names = ["DUAL_STACK", "ISTIO_AGENT_DUAL_STACK", "ISTIO_DUAL_STACK"]
    elif release < AGENT_DUAL_STACK[1]:
        names = ["ISTIO_AGENT_DUAL_STACK"] if release >= AGENT_DUAL_STACK[0] else []
    else:
        names = (
            ["DUAL_STACK", "ISTIO_DUAL_STACK"] if _in_flags(release) else ["ISTIO_DUAL_STACK", "DUAL_STACK"]
        )
    answers = [kinds.is_true(environment[name]) for name in names if environment.get(name)]
    return bool(answers) and answers[-1]


def _users(environment: Mapping[str, str], release: Number | None) -> str:
    """Whose packets may leave where no user is named: ENVOY_USER's, if the image knows it."""
    user = str(_USERS.get(environment.get("ENVOY_USER", ""), ports.PROXY_ID))
    return f"{user},0" if release is not None and release < ROOT_UNTIL else user


def _asks(environment: Mapping[str, str], variable: str) -> bool:
    return kinds.is_true(environment.get(variable, ""))
