"""What other packages bring: objects named by entry points, loaded when they are first needed.

Here is how they are found and what is said of those that cannot be loaded. What a tool or a specialist must be stands
with those who use it (`copilot/extra_tools.py`, `grounding/specialists.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib import metadata

from slidekick.data.errors import PluginError

MOST_SAID = 200  # characters of a stranger's error in a line of ours


@dataclass(frozen=True)
class Plugin:
    """name: of the entry point. package, version: of the distribution that brings it. made: what it names."""

    name: str
    package: str
    version: str
    made: object = None

    def wrong(self, what: str) -> PluginError:
        """The error that tells what is wrong with it, and the mend."""
        return PluginError(f"{self.package}: {what}; mend it, or `pip uninstall {self.package}`")


Gathered = tuple[dict[str, object], list[PluginError]]


def gather(group: str, check: Callable[[Plugin], object]) -> Gathered:
    """All that is registered under a group of entry points, by name, and an error for each that cannot be used.

    check: what is kept of a plugin; raises PluginError.
    """
    kept, errors, brought = {}, [], {}
    for entry in sorted(metadata.entry_points(group=group), key=lambda one: (_named(one).package, one.name)):
        plugin = _named(entry)
        try:
            if plugin.name in brought:
                raise plugin.wrong(f"{plugin.name} is the name of what {brought[plugin.name]} brings too")
            brought[plugin.name] = plugin.package
            kept[plugin.name] = check(_loaded(plugin, entry))
        except PluginError as error:
            errors.append(error)
    return kept, errors


def all_of(gathered: Gathered) -> dict:
    """All of it, or the first error: an answer that silently lacks an instrument would be another answer."""
    kept, errors = gathered
    for error in errors:
        raise error
    return kept


def told(error: BaseException) -> str:
    """Type and first line of an error, to be named in a line of ours."""
    said = (str(error).strip().splitlines() or [""])[0][:MOST_SAID]
    return f"{type(error).__name__}: {said}" if said else type(error).__name__


def texts(value: object) -> bool:
    """Whether it is a tuple or list of texts, none of them empty. One text in its place is a common slip."""
    return isinstance(value, tuple | list) and all(isinstance(one, str) and one.strip() for one in value)


def _named(entry: metadata.EntryPoint) -> Plugin:
    return Plugin(entry.name, entry.dist.name, entry.dist.version)


def _loaded(plugin: Plugin, entry: metadata.EntryPoint) -> Plugin:
    try:
        return replace(plugin, made=entry.load())
    except (Exception, SystemExit) as error:  # a stranger's module may raise anything while it is imported
        raise plugin.wrong(f"{plugin.name} ({entry.value}) cannot be loaded ({told(error)})") from error
