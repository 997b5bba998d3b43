"""Rows that cannot be measured here."""


class Missing(Exception):  # noqa: N818 -- not an error: a row of the table says it
    """What a row needs is not here; the message says what."""
