"""Which of two forms a client would rather have."""

from __future__ import annotations


def prefers(accept: str | None, form: str, default: str) -> bool:
    """Say whether a client would rather have one media type than the default.

    Args:
        accept: The request's ``Accept`` header; None where it has none.
        form: The media type, such as ``text/html``.
        default: The one that is sent to whoever does not prefer the other.

    Example:
        >>> prefers("text/html,application/xml;q=0.9,*/*;q=0.8", "text/html", "application/json")
        True
        >>> prefers("*/*", "text/html", "application/json")
        False
    """
    return accept is not None and _quality(accept, form) > _quality(accept, default)


def _quality(accept: str, form: str) -> float:
    """Return how much a media type is wanted, from 0 to 1: what the entry says that names it most closely."""
    ranges = {"*/*": 0, f"{form.partition('/')[0]}/*": 1, form: 2}
    closest, quality = -1, 0.0
    for entry in accept.split(","):
        named, *parameters = (part.strip().lower() for part in entry.split(";"))
        if (closeness := ranges.get(named, -1)) > closest:
            closest, quality = closeness, _given(parameters)
    return quality


def _given(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(1.0, max(0.0, float(value)))
            except ValueError:
                return 0.0
    return 1.0
