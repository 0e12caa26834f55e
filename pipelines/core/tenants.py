"""Whose documents a filter keeps to: an id is one tenant's. Knows no store, and no one who asks."""

from __future__ import annotations

from pipelines.core.filters import And, Comparison, Filter


def scoped(where: Filter | None, tenant: str | None) -> Filter | None:
    """The filter, held within the tenant: whatever it says, both must hold."""
    if tenant is None:
        return where
    own = Comparison("tenant", "==", tenant)
    return own if where is None else And((own, where))


def named(where: Filter | None) -> str | None:
    """The one tenant that the filter itself keeps to, by `tenant == "..."`; None where it says none."""
    match where:
        case Comparison("tenant", "==", str(tenant)):
            return tenant
        case And(operands):
            return next((found for one in operands if (found := named(one)) is not None), None)
    return None
