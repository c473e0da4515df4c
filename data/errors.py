"""The errors a user may see: one line that names the file, the value and the mend.

Commands print the line and leave with code 2; libraries raise it. Anything else that escapes is a bug.
"""


class SlidekickError(Exception):
    """Base of every error that a user can mend."""


class InputError(SlidekickError):
    """The file, region, question or option given cannot be used as it is."""


class SourceError(SlidekickError):
    """A package that holds base weights or samples could not be fetched, or is not the pinned one."""


class OutputError(SlidekickError):
    """The result cannot be written where it was asked for."""


class PluginError(SlidekickError):
    """An installed package brings a tool or a specialist that cannot be used."""


class ShortError(SlidekickError):
    """There is too little memory for what was asked; told before the system ends the process."""


def first_line(error: BaseException, most: int = 300) -> str:
    """The first line of an error, `most` characters at most, to be named in a line of ours; its kind where it says
    nothing."""
    said = str(error).strip()
    return (said.splitlines()[0] if said else type(error).__name__)[:most]
