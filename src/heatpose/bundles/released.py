"""Released networks: bundles that come with the project, and their names as paths.

`NAME` refers to a bundle or its default file, `NAME/ARTEFACT` to one of its files. They are in
`exports/released` of a checkout, the smaller ones also in the installed package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from heatpose.bundles.bundle import MANIFEST, Bundle
from heatpose.errors import HeatposeError

ReleasedFile = Literal["int8_pc", "int8_pt", "checkpoint"]
PATTERNS: Mapping[str, str] = {
    "int8_pc": "*_int8_pc.tflite",
    "int8_pt": "*_int8_pt.tflite",
    "checkpoint": "*.ckpt",
}
"""Artefact, as in `NAME/ARTEFACT` -> pattern of its file name."""
DEFAULT = "st_movenet_17kpt_192"
DEFAULT_ARTEFACT: ReleasedFile = "int8_pc"
"""Model of `heatpose predict` if none is given."""
DEFAULT_KEYPOINTS, DEFAULT_RESOLUTION = 17, 192
"""Properties of a network that replaces `DEFAULT` if that one is not available."""
ENTRY = "released"
"""Key in the manifest: `checkpoint` (file name), `package` (whether the wheel has the bundle),
`scored_on` (text)."""
DEPLOYED = Path("exports", "deployed")
"""Folder of deployment packages of released networks, whose own folders are not changed."""

_PACKAGE = Path(__file__).parents[1]
FOLDERS: tuple[Path, ...] = (_PACKAGE.parents[1] / "exports" / "released", _PACKAGE / "released")
"""Of a checkout, and of an installed package; the first that has a name counts."""
UNREADABLE = (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError)
"""Errors of damaged records."""


@dataclass(frozen=True)
class ReleasedNetwork:
    """A released bundle.

    Attributes:
        name: Of its folder.
        folder: Where it is.
        manifest: Content of `manifest.json`.
        metrics: Content of `metrics.json`; empty where there is none.
    """

    name: str
    folder: Path
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]

    @property
    def keypoints(self) -> int:
        """K."""
        return len(self.manifest["skeleton"]["keypoints"])

    @property
    def resolution(self) -> int:
        """Side of the input in pixels."""
        return int(self.manifest["resolution"])

    def file(self, artefact: str) -> Path | None:
        """Path of an artefact; None if the bundle does not have it."""
        return next(iter(sorted(self.folder.glob(PATTERNS[artefact]))), None)

    def oks(self, artefact: str) -> float | None:
        """Mean OKS in percent of "torch", "int8_pc" or "int8_pt"; None if not scored."""
        report = self.metrics.get("artefacts", {}).get(artefact, {}).get("report")
        return None if report is None else float(report["oks"])

    def to_json(self) -> dict[str, Any]:
        """Plain values: what `heatpose models --json` writes about it."""
        files = {
            artefact: path for artefact in PATTERNS if (path := self.file(artefact)) is not None
        }
        artefacts = self.metrics.get("artefacts", {})
        return {
            "name": self.name,
            "folder": str(self.folder),
            "keypoints": self.keypoints,
            "resolution": self.resolution,
            "skeleton": self.manifest["skeleton"].get("name"),
            "oks": {
                "float": self.oks("torch"),
                "int8_pc": self.oks("int8_pc"),
                "int8_pt": self.oks("int8_pt"),
            },
            "agreement": {
                artefact: artefacts[artefact]["agreement"]
                for artefact in ("int8_pc", "int8_pt")
                if artefacts.get(artefact, {}).get("agreement")
            },
            "scored_on": self.manifest.get(ENTRY, {}).get("scored_on"),
            "bytes": {artefact: path.stat().st_size for artefact, path in files.items()},
            "terms": self.manifest.get("terms"),
        }


def released() -> dict[str, ReleasedNetwork]:
    """Name -> network, in the order of the names.

    Raises:
        HeatposeError: A manifest or metrics file cannot be read.
    """
    folders: dict[str, Path] = {}
    for place in FOLDERS:
        for manifest in place.glob(f"*/{MANIFEST}"):
            folders.setdefault(manifest.parent.name, manifest.parent)
    return {name: _read(folders[name]) for name in sorted(folders)}


def _read(folder: Path) -> ReleasedNetwork:
    try:
        manifest = Bundle.read(folder).manifest
        path = folder / "metrics.json"
        metrics = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        network = ReleasedNetwork(folder.name, folder, manifest, metrics)
        network.to_json()  # what commands read of it
    except (*UNREADABLE, HeatposeError) as error:
        raise HeatposeError(
            f"Released network '{folder}' is damaged; get the folder again, or remove it."
        ) from error
    return network


def resolve(path: str | Path, artefact: ReleasedFile = DEFAULT_ARTEFACT) -> Path:
    """Converts a path or the name of a released network to the path of a model file.

    An existing path is returned unchanged, even if a network has that name; only the folder of a
    bundle becomes its file.

    Args:
        path: A path, `NAME`, or `NAME/ARTEFACT` with a key of `PATTERNS`.
        artefact: File for `NAME` alone, and for a bundle's folder if it has the file.

    Raises:
        HeatposeError: It is neither a path nor the name of a released network.
    """
    found, wanted = _named(path)
    if found is not None:
        return _file(found, wanted or artefact)
    folder = Path(path)
    if not (folder / MANIFEST).is_file():
        return folder
    return next(iter(sorted(folder.glob(PATTERNS[artefact]))), folder)


def resolve_bundle(path: str | Path) -> Path:
    """As `resolve`, but `NAME` alone gives the folder of its bundle."""
    found, wanted = _named(path)
    if found is None:
        return Path(path)
    return found.folder if wanted is None else _file(found, wanted)


def package_folder(path: str | Path) -> Path | None:
    """Folder for deployment packages of a released network.

    None for other models, whose packages are written beside them.

    Args:
        path: Path or name, as given by the user.
    """
    found, _ = _named(path)
    return None if found is None else DEPLOYED / found.name


def default_model() -> tuple[str, Path]:
    """Name and file of the network for commands without a model.

    Raises:
        HeatposeError: No network is released.
    """
    networks = released()
    usual = [
        name
        for name, network in networks.items()
        if (network.keypoints, network.resolution) == (DEFAULT_KEYPOINTS, DEFAULT_RESOLUTION)
    ]
    name = DEFAULT if DEFAULT in networks else next(iter(usual), None)
    if name is None:
        raise HeatposeError(
            "No model was given, and no released network takes its place; give a .ckpt, .onnx or"
            " .tflite file first."
        )
    return name, _file(networks[name], DEFAULT_ARTEFACT)


def _named(path: str | Path) -> tuple[ReleasedNetwork | None, str | None]:
    """Released network and artefact of `NAME/ARTEFACT`; (None, None) for a path.

    Raises:
        HeatposeError: The text looks like a name, but is not that of a released network.
    """
    parts = PurePath(path).parts
    if Path(path).exists() or not 1 <= len(parts) <= 2:
        return None, None
    name, artefact = parts[0], parts[1] if len(parts) == 2 else None
    network = released().get(name)
    if network is not None:
        return network, artefact
    if PurePath(path).suffix or (artefact is not None and artefact not in PATTERNS):
        return None, None
    raise HeatposeError(f"'{path}' is neither a file nor a released network; {_choices()}.")


def _choices() -> str:
    names = list(released())
    if not names:
        return "this version has no released networks, so give the path of a model file"
    return f"the released networks are {', '.join(names)}"


def _file(network: ReleasedNetwork, artefact: str) -> Path:
    found = network.file(artefact) if artefact in PATTERNS else None
    if found is None:
        files = ", ".join(f"{network.name}/{key}" for key in PATTERNS if network.file(key))
        raise HeatposeError(
            f"Released network '{network.name}' has no file '{artefact}'; it has {files}."
        )
    return found
