"""Released networks: bundles that come with the project, and their names as paths.

`NAME` stands for a bundle or its default file, `NAME/FORM` for one of its files. They lie in
`exports/released` of a checkout, the smaller ones also inside the installed package.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, Literal

from heatpose.bundles.bundle import MANIFEST, Bundle
from heatpose.errors import HeatposeError

Form = Literal["int8_pc", "int8_pt", "checkpoint"]
PATTERNS: Mapping[str, str] = {
    "int8_pc": "*_int8_pc.tflite",
    "int8_pt": "*_int8_pt.tflite",
    "checkpoint": "*.ckpt",
}
"""What follows a name and a slash -> the file."""
DEFAULT = "st_movenet_17kpt_192"
DEFAULT_FORM: Form = "int8_pc"
"""What `heatpose predict` takes where no model is given."""
DEFAULT_KEYPOINTS, DEFAULT_RESOLUTION = 17, 192
"""Of a network that takes the place of `DEFAULT` where that one is not there."""
ENTRY = "released"
"""Of the manifest: `checkpoint` (file name), `package` (whether the wheel has the bundle),
`scored_on` (text)."""
DEPLOYED = Path("exports", "deployed")
"""Deployment packages of released networks, whose own folders stay as they are."""

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

    def file(self, form: str) -> Path | None:
        """The file of a form; None where the bundle has none."""
        return next(iter(sorted(self.folder.glob(PATTERNS[form]))), None)

    def oks(self, artefact: str) -> float | None:
        """Mean OKS in percent of "torch", "int8_pc" or "int8_pt"; None where it was not scored."""
        report = self.metrics.get("artefacts", {}).get(artefact, {}).get("report")
        return None if report is None else float(report["oks"])

    def to_json(self) -> dict[str, Any]:
        """Plain values: what `heatpose models --json` writes about it."""
        files = {form: path for form in PATTERNS if (path := self.file(form)) is not None}
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
                form: artefacts[form]["agreement"]
                for form in ("int8_pc", "int8_pt")
                if artefacts.get(form, {}).get("agreement")
            },
            "scored_on": self.manifest.get(ENTRY, {}).get("scored_on"),
            "bytes": {form: path.stat().st_size for form, path in files.items()},
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


def resolve(path: str | Path, form: Form = DEFAULT_FORM) -> Path:
    """The model file that a path or a released name stands for.

    An existing path stands for itself, also where a network has that name.

    Args:
        path: A path, `NAME`, or `NAME/FORM` with a key of `PATTERNS`.
        form: Which file `NAME` alone stands for.

    Raises:
        HeatposeError: It is neither a path nor the name of a released network.
    """
    found, wanted = _named(path)
    return Path(path) if found is None else _file(found, wanted or form)


def resolve_bundle(path: str | Path) -> Path:
    """Like `resolve`, but `NAME` alone stands for the folder of its bundle."""
    found, wanted = _named(path)
    if found is None:
        return Path(path)
    return found.folder if wanted is None else _file(found, wanted)


def package_folder(path: str | Path) -> Path | None:
    """Where deployment packages of a released network go.

    None for other models, whose packages lie beside them.

    Args:
        path: As typed.
    """
    found, _ = _named(path)
    return None if found is None else DEPLOYED / found.name


def default_model() -> tuple[str, Path]:
    """Name and file of the network that is taken where no model is given.

    Raises:
        HeatposeError: None is released.
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
    return name, _file(networks[name], DEFAULT_FORM)


def _named(path: str | Path) -> tuple[ReleasedNetwork | None, str | None]:
    """The network that a text names and the form behind its slash; None, None for a path.

    Raises:
        HeatposeError: The text has the form of a name, but no network has it.
    """
    parts = PurePath(path).parts
    if Path(path).exists() or not 1 <= len(parts) <= 2:
        return None, None
    name, form = parts[0], parts[1] if len(parts) == 2 else None
    network = released().get(name)
    if network is not None:
        return network, form
    if PurePath(path).suffix or (form is not None and form not in PATTERNS):
        return None, None
    raise HeatposeError(f"'{path}' is neither a file nor a released network; {_choices()}.")


def _choices() -> str:
    names = list(released())
    if not names:
        return "this version has no released networks, so give the path of a model file"
    return f"the released networks are {', '.join(names)}"


def _file(network: ReleasedNetwork, form: str) -> Path:
    found = network.file(form) if form in PATTERNS else None
    if found is None:
        files = ", ".join(f"{network.name}/{key}" for key in PATTERNS if network.file(key))
        raise HeatposeError(
            f"Released network '{network.name}' has no file '{form}'; it has {files}."
        )
    return found
