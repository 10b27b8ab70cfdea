"""Where targets are written: the built-in ones by name, others by the path of their YAML."""

from __future__ import annotations

from pathlib import Path

from heatpose.deploy.parts import part
from heatpose.deploy.targets import Target
from heatpose.errors import HeatposeError
from heatpose.utils.files import conf_folder


def built_in() -> dict[str, Path]:
    """Names of the built-in targets and where they are written."""
    return {path.stem: path for path in sorted((conf_folder() / "target").glob("*.yaml"))}


def load_target(name: str) -> Target:
    """A built-in target by name, or any by the path of its YAML.

    Raises:
        HeatposeError: There is none, or its file is malformed.
    """
    import yaml

    known = built_in()
    path = known.get(name, Path(name))
    if name not in known and path.suffix not in (".yaml", ".yml"):
        raise HeatposeError(
            f"Target '{name}' is unknown; choose one of {', '.join(known)} or give the path of a"
            " YAML like conf/target/stm32n6.yaml."
        )
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise HeatposeError(
            f"Target file '{path}' cannot be read ({reason}); give {', '.join(known)} or a YAML"
            " like conf/target/stm32n6.yaml."
        ) from error
    return part(Target, content, path.name)
