"""What a terminal may be shown of a stranger's texts."""

_CONTROL = dict.fromkeys({*range(32), *range(127, 160)} - {ord("\n"), ord("\t")}, "\ufffd")


def plain(text: str) -> str:
    """Text of a file as a terminal may show it: what would move its cursor or rename its window stands as �."""
    return text.translate(_CONTROL)
