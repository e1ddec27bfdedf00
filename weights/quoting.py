"""What an error quotes back: on one line, and no longer than a line, whatever it was."""

from collections.abc import Iterable

QUOTED = 60  # characters of a value quoted back


def quoted(value: object, most: int = QUOTED) -> str:
    """A value as an error quotes it: its repr, on one line, the middle of a long one left out."""
    if isinstance(value, int) and abs(value) > 10**30:
        return "a number of more than 30 digits"
    return shown(repr(value), most)


def shown(text: object, most: int = 200) -> str:
    """A path, or another's message, as an error names it: on one line, the middle of a long one left out."""
    line = str(text)
    line = line if line.isprintable() else repr(line)[1:-1]
    return line if len(line) <= most else f"{line[: most // 2]}...{line[-(most // 2) :]}"


def listed(names: Iterable[str], most: int = 5) -> str:
    """Some names, quoted, and how many more there are."""
    names = list(names)
    some = ", ".join(quoted(name) for name in names[:most])
    return some + (f" and {len(names) - most} more" if len(names) > most else "")
