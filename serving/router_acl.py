"""Who may do what on a router, by the common names of certificates: each robot on its own keys, servers on all.

Everything else is refused, without a word to whoever tried.
"""

from __future__ import annotations

from typing import Any

Rule = dict[str, Any]


def access_control(robots: list[str], servers: list[str], root: str, shared_session_key: bool) -> dict[str, Any]:
    """Zenoh's `access_control` for these robots and servers."""
    service = f"{root}/*/*/*"  # model, revision, task
    common = _common_rules(service, shared_session_key)
    rules, policies = [*common], []
    for robot in robots:
        own = _robot_rules(service, robot)
        rules += own
        policies.append({"subjects": [_subject(robot)], "rules": [rule["id"] for rule in [*own, *common]]})
    rules.append(_server_rule(root))
    policies.append({"subjects": ["servers"], "rules": ["servers"]})
    subjects = [{"id": _subject(robot), "cert_common_names": [robot]} for robot in robots]
    subjects.append({"id": "servers", "cert_common_names": list(servers)})
    return {
        "enabled": True,
        "default_permission": "deny",
        "rules": rules,
        "subjects": subjects,
        "policies": policies,
    }


def _robot_rules(service: str, robot: str) -> list[Rule]:
    """What one robot may do: put observations, hear its actions, ask on its keys, and say that it lives."""
    own = f"{service}/{robot}"
    asks = [f"{own}/session", f"{own}/reset", f"{own}/*/reset"]
    return [
        _rule(f"{robot}/observations", "ingress", ["put"], [f"{own}/obs", f"{own}/*/obs"]),
        _rule(f"{robot}/listens", "ingress", ["declare_subscriber"], [f"{own}/action"]),
        _rule(f"{robot}/actions", "egress", ["put"], [f"{own}/action"]),
        _rule(f"{robot}/asks", "ingress", ["query"], asks),
        _rule(f"{robot}/answers", "egress", ["reply"], asks),
        _rule(f"{robot}/lives", "ingress", ["liveliness_token"], [f"{own}/alive"]),
    ]


def _common_rules(service: str, shared_session_key: bool) -> list[Rule]:
    """What every robot may do: ask for the status, see which servers are there, and watch them live."""
    asks = [f"{service}/status", *([f"{service}/session"] if shared_session_key else [])]
    tokens = [f"{service}/server/alive", f"{service}/server/*/alive"]
    surface = [
        f"{service}/*/obs", f"{service}/*/*/obs", f"{service}/*/session", f"{service}/*/reset", f"{service}/*/*/reset",
        f"{service}/session", f"{service}/status",
    ]  # fmt: skip
    return [
        _rule("robots/ask", "ingress", ["query"], asks),
        _rule("robots/answers", "egress", ["reply"], asks),
        # without these a robot's node would not know that anybody wants its messages, and would not send them
        _rule("robots/see", "egress", ["declare_subscriber", "declare_queryable"], surface),
        _rule("robots/watch", "ingress", ["declare_liveliness_subscriber", "liveliness_query"], tokens),
        _rule("robots/tokens", "egress", ["liveliness_token"], tokens),
    ]


def _server_rule(root: str) -> Rule:
    everything = [
        "put", "delete", "declare_subscriber", "query", "reply", "declare_queryable", "liveliness_token",
        "liveliness_query", "declare_liveliness_subscriber",
    ]  # fmt: skip
    return {**_rule("servers", "ingress", everything, [f"{root}/**"]), "flows": ["ingress", "egress"]}


def _rule(name: str, flow: str, messages: list[str], key_exprs: list[str]) -> Rule:
    return {"id": name, "permission": "allow", "flows": [flow], "messages": messages, "key_exprs": key_exprs}


def _subject(robot: str) -> str:
    return f"robot/{robot}"
