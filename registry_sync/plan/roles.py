"""Which version of a model its tags and aliases ask for (pure).

An operator names a version stable by the tag `penstock.role=stable` or by an alias. The order of
precedence, highest first:

1. `penstock.role=off` on a version, or `penstock off`: nothing names it stable then. If it serves,
   it ends as soon as what is stable in its stead is ready, or at once if nothing is: a swap that an
   operator makes by tagging the new version first and then the old one costs no request.
2. Aliases, in the configured order.
3. Tags; among several versions so tagged the highest number wins, and the others are superseded.

A role that we do not know counts as no role, and is reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from penstock.registry_sync.plan.tags.names import DEFAULT_NAMES, TagNames
from penstock.registry_sync.sources.types import ROLE_TAG, ObservedModel, version_order

STABLE = "stable"
OFF = "off"


@dataclass(frozen=True)
class Roles:
    """What a model's versions are named.

    Attributes:
        stable: the version that is to serve, or None if none is named.
        off: versions that must not serve.
        turned_off: those of them that are named stable, and were turned off in the store.
        superseded: versions that are named stable too, each with the reason why another goes first.
        unknown: versions with a role that does not exist, each with what to tell the operator.
        by: the alias or tag that names the stable one, with its value.
        dangling: what to tell the operator of an alias that names a version that is not there.
    """

    stable: str | None
    off: frozenset[str]
    superseded: Mapping[str, str]
    unknown: Mapping[str, str]
    turned_off: frozenset[str] = frozenset()
    by: str = ""
    dangling: str = ""


def roles_of(
    model: ObservedModel,
    stable_aliases: Sequence[str],
    turned_off: frozenset[str] = frozenset(),
    names: TagNames = DEFAULT_NAMES,
) -> Roles:
    """Read the roles of one model's versions.

    Args:
        stable_aliases: aliases that mean stable, the strongest first.
        turned_off: versions that are off whatever their tags say.
        names: what the operator calls our tags.
    """
    by_role = {seen.version: role_of(seen.tags) for seen in model.versions}
    off = frozenset(version for version, role in by_role.items() if role == OFF) | turned_off
    named = [
        (model.aliases[alias], f"alias {alias}")
        for alias in stable_aliases
        if model.aliases.get(alias) in by_role
    ]
    tagged = [version for version, role in by_role.items() if role == STABLE]
    named += [(version, "its tag") for version in _highest_first(tagged)]
    candidates = [(version, how) for version, how in named if version not in off]
    winner = candidates[0] if candidates else None
    return Roles(
        stable=winner[0] if winner else None,
        off=off,
        superseded=_superseded(candidates),
        unknown=_unknown(by_role, names.outward(ROLE_TAG)),
        turned_off=turned_off & {version for version, _ in named},
        by=_by(winner, model, names) if winner else "",
        dangling=_dangling(model.aliases, stable_aliases, by_role),
    )


def is_held_off(
    model: ObservedModel, stable_aliases: Sequence[str], version: str, turned_off: frozenset[str]
) -> bool:
    """Whether it is only because a version was turned off that it is not to serve."""
    return roles_of(model, stable_aliases, turned_off - {version}).stable == version


def _dangling(
    aliases: Mapping[str, str], stable_aliases: Iterable[str], there: Collection[str]
) -> str:
    """The strongest alias that names what is not there; one version's folder may still come."""
    for alias in stable_aliases:
        if alias in aliases and aliases[alias] not in there:
            return f"alias {alias} names version {aliases[alias][:40]!r}, which is not there yet"
    return ""


def _by(winner: tuple[str, str], model: ObservedModel, names: TagNames) -> str:
    """What names a version stable, with its value."""
    version, how = winner
    if how.startswith("alias "):
        return f"{how} = {version}"
    if version == model.default:
        return "the highest version, as none is named stable"
    return f"tag {names.outward(ROLE_TAG)} = {STABLE}"


def role_of(tags: Mapping[str, str]) -> str:
    """The role that a version's tags give it, whether we know it or not; empty if none."""
    return tags.get(ROLE_TAG, "").strip().lower()


def _highest_first(versions: Iterable[str]) -> list[str]:
    return sorted(versions, key=version_order, reverse=True)


def _superseded(candidates: Sequence[tuple[str, str]]) -> dict[str, str]:
    if not candidates:
        return {}
    winner, how = candidates[0]
    message = f"version {winner} is stable by {how}"
    return {version: message for version, _ in candidates[1:] if version != winner}


def _unknown(by_role: Mapping[str, str], tag: str) -> dict[str, str]:
    return {
        version: f"{tag} is {role[:40]!r}, which is no role: use {STABLE} or {OFF}"
        for version, role in by_role.items()
        if role not in ("", STABLE, OFF)
    }
