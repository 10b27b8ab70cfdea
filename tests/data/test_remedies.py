"""Settings that the messages of the data code name exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

REPOSITORY = Path(__file__).parents[2]
SOURCES = [
    *sorted((REPOSITORY / "src" / "heatpose" / "data").glob("*.py")),
    REPOSITORY / "src" / "heatpose" / "pose" / "skeleton.py",
]
SETTING = re.compile(r"(?<![\w./])(?:data|augment|distill)(?:\.[a-z_]+)+(?=[= ;.,)]|$)")


def named(path: Path) -> set[str]:
    """Settings in the texts of a module, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {
        id(node.value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    }
    texts = (
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
    )
    return {match for text in texts for match in SETTING.findall(text)}


@pytest.fixture(scope="module")
def config() -> DictConfig:
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        return compose("train", return_hydra_config=False)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_every_setting_in_a_message_exists(path: Path, config: DictConfig) -> None:
    unknown = {
        key for key in named(path) if OmegaConf.is_missing(config, key) or _absent(config, key)
    }
    assert not unknown


def _absent(config: DictConfig, key: str) -> bool:
    *way, last = key.split(".")
    node = config
    for part in way:
        if not isinstance(node, DictConfig) or part not in node:
            return True
        node = node[part]
    return last not in node


def test_settings_are_found() -> None:
    found = set().union(*map(named, SOURCES))
    assert {
        "data.root",
        "data.download",
        "data.cache",
        "data.short_side",
        "data.module.min_side",
        "data.module.limit",
    } <= found
