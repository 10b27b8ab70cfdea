"""Targets: the built-in ones, a board of one's own, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hydra.utils import instantiate

from heatpose.deploy.targets import Pool, Target, built_in, load_target
from heatpose.errors import HeatposeError

ON_CHIP = 1024 + 4 * 448


def _with(tmp_path: Path, **changes: object) -> Path:
    content = yaml.safe_load(built_in()["stm32n6"].read_text())
    content.update(changes)
    path = tmp_path / "board.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_built_in_targets_ask_for_the_granularity_that_their_hardware_takes() -> None:
    artefacts = {name: load_target(name).artefact for name in built_in()}
    assert (
        artefacts.items()
        >= {
            "nucleo_n657x0": "int8_pc",
            "stm32n6": "int8_pc",
            "stm32mp2": "int8_pt",
            "stm32mp1": "int8_pc",
        }.items()
    )


@pytest.mark.parametrize(("name", "kib"), [("stm32n6", ON_CHIP), ("nucleo_n657x0", 400 + 4 * 448)])
def test_n6_memory_map_adds_up(name: str, kib: int) -> None:
    target = load_target(name)
    npu = target.npu
    assert npu is not None
    ram = [pool for pool in npu.pools if pool.rights == "ACC_WRITE" and pool.address < 0x60000000]
    assert sum(pool.kib for pool in ram) == npu.on_chip_kib() == kib == target.budget.ram_kib
    assert all(
        a.address + a.kib * 1024 <= b.address
        for a, b in zip(npu.pools, npu.pools[1:], strict=False)
        if b.address > a.address
    )
    weights = npu.weights_pool()
    assert weights is not None and weights.name == "octoFlash" and weights.address == 0x70380000
    assert weights.kib == target.budget.flash_kib


def test_the_nucleo_has_no_external_ram_and_its_own_loader() -> None:
    target = load_target("nucleo_n657x0")
    assert target.npu is not None and target.board == "NUCLEO-N657X0-Q"
    assert not [p for p in target.npu.pools if p.external and p.rights == "ACC_WRITE"]
    assert target.flashing.loader == "MX25UM51245G_STM32N6570-NUCLEO.stldr"


def test_mp2_tool_is_limited_to_the_versions_that_know_it() -> None:
    tool = load_target("stm32mp2").tool
    assert (
        tool is not None
        and tool.supports((2, 2, 0))
        and tool.supports((2, 0, 0))
        and not tool.supports((3, 0, 0))
    )
    n6 = load_target("stm32n6").tool
    assert n6 is not None and n6.supports((4, 0, 1)) and not n6.supports((1, 0, 0))


@pytest.mark.parametrize("name", sorted(built_in()))
def test_hydra_builds_the_same_object(name: str) -> None:
    built = instantiate(yaml.safe_load(built_in()[name].read_text()))
    assert isinstance(built, Target) and built == load_target(name)


def test_a_board_of_ones_own_by_path(tmp_path: Path) -> None:
    ram = {"name": "ram", "file": "RAM", "address": 0x20000000, "kib": 512}
    pools = [
        ram,
        {"name": "rom", "file": "ROM", "address": 0x8000000, "kib": 4096, "rights": "ACC_READ"},
    ]
    target = load_target(
        str(
            _with(
                tmp_path,
                name="mine",
                npu={"profile": "p", "options": "-O3", "pools": pools},
                budget=None,
            )
        )
    )
    assert target.npu is not None and target.npu.pools[0] == Pool("ram", "RAM", 0x20000000, 512)
    assert (
        target.name == "mine"
        and target.budget.ram_kib is None
        and target.npu.weights_pool() == target.npu.pools[1]
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"artefact": "int4"}, "int4"),
        ({"name": "my board"}, "my board"),
        ({"speed": 3}, "speed"),
        ({"budget": {"ram_kib": "lots"}}, "lots"),
        ({"budget": [1]}, "budget"),
        ({"tool": {"target": "stm32n6"}}, "tool"),
        ({"tool": {"target": "stm32n6", "oldest": 2.0, "product": "x"}}, "oldest"),
        ({"flashing": {"kind": "usb"}}, "usb"),
        (
            {
                "npu": {
                    "profile": "p",
                    "options": "",
                    "pools": [{"name": "x", "file": "X", "address": -1, "kib": 1}],
                }
            },
            "'x'",
        ),
        ({"rules": {"software": {"ADD": 3}}}, "ADD"),
        ({"output_dtype": "int4"}, "output_dtype"),
        ({"export": {"output": "int4"}}, "export.output"),
    ],
)
def test_a_malformed_file_is_refused_by_name(
    tmp_path: Path, changes: dict[str, object], word: str
) -> None:
    with pytest.raises(HeatposeError, match=word):
        load_target(str(_with(tmp_path, **changes)))


def test_unknown_names_and_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(HeatposeError, match="nucleo_n657x0, stm32mp1, stm32mp2, stm32n6"):
        load_target("stm32h7")
    with pytest.raises(HeatposeError, match="cannot be read"):
        load_target(str(tmp_path / "none.yaml"))
    (tmp_path / "broken.yaml").write_text("a: [")
    with pytest.raises(HeatposeError, match="cannot be read"):
        load_target(str(tmp_path / "broken.yaml"))
    (tmp_path / "list.yaml").write_text("- 1")
    with pytest.raises(HeatposeError, match="list.yaml"):
        load_target(str(tmp_path / "list.yaml"))
