"""What IAM would say to one request, by the rules of its reference: an explicit Deny wins, and nothing is allowed by itself."""

import fnmatch
from collections.abc import Iterable, Mapping
from typing import Any


def many(value: str | list[str]) -> list[str]:
    return [value] if isinstance(value, str) else value


def matches(pattern: str, value: str) -> bool:
    """`*` and `?` as in resources, where `*` also matches slashes and brackets mean nothing."""
    return fnmatch.fnmatchcase(value, pattern.replace("[", "[[]"))


def allowed(policies: Iterable[Any], action: str, resource: str, context: Mapping[str, str] | None = None) -> bool:
    """Whether policies of one identity allow a request. A condition on a key that the request lacks does not hold."""
    effects = {
        statement["Effect"]
        for policy in policies
        for statement in many(policy["Statement"])
        if any(matches(pattern.lower(), action.lower()) for pattern in many(statement["Action"]))
        and any(matches(pattern, resource) for pattern in many(statement["Resource"]))
        and all(holds(*condition, context or {}) for condition in statement.get("Condition", {}).items())
    }
    return effects == {"Allow"}


def holds(operator: str, wanted: Mapping[str, str | list[str]], context: Mapping[str, str]) -> bool:
    compare = {"StringLike": matches, "StringEquals": lambda pattern, value: pattern == value}[operator]
    return all(
        key in context and any(compare(pattern, context[key]) for pattern in many(patterns))
        for key, patterns in wanted.items()
    )
