"""Configurations as YAML, read the same way wherever one is taken."""

from __future__ import annotations

import os
from pathlib import Path

from slidekick.data.errors import InputError


def read_yaml(path: str | os.PathLike) -> object:
    """What a YAML file holds, plain values only. Raises InputError where it is missing or broken."""
    import yaml

    try:
        return yaml.safe_load(Path(path).read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"{path}: cannot be read as YAML ({type(error).__name__}); give a configuration file"
        ) from error
