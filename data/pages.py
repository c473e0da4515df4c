"""How HTML pages are made from templates: everything escaped, and nothing undefined passed over in silence."""

from __future__ import annotations

from pathlib import Path


def page_environment(folder: Path):
    """A Jinja environment whose templates lie in `folder`."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
