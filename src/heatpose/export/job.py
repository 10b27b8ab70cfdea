"""The input of an export, checked before any slow step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from heatpose.bundles.bundle import Bundle
from heatpose.bundles.provenance import data_entry
from heatpose.errors import HeatposeError
from heatpose.export.convert import check_installed
from heatpose.export.onnx import description
from heatpose.quantize.calibration import ExportData
from heatpose.quantize.settings import ExportConfig
from heatpose.tflite.inspect import Artefact

if TYPE_CHECKING:
    from heatpose.models.checkpoint import LoadedCheckpoint


@dataclass(frozen=True, kw_only=True)
class ExportJob:
    """One export.

    Attributes:
        model: Float network with or without batch norm, which is left as it is, its keypoints and
            its input; the size of the input is the resolution.
        data: Instances for calibration, fine-tuning and scores. The calibration images are also
            those that the files are compared with the network on.
        config: Files, quantisation and acceptance checks.
        folder: The bundle's folder, exports/<name>; the folder of all bundles is made if missing.
        model_name: Beginning of the model files' names.
        run_config: Configuration of the run, plain values, for the manifest.
        provenance: Origin of weights and data, plain values, for manifest and model card.
    """

    model: LoadedCheckpoint
    data: ExportData
    config: ExportConfig
    folder: Path
    model_name: str
    run_config: Mapping[str, Any]
    provenance: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Name of the bundle."""
        return self.folder.name

    @property
    def stem(self) -> str:
        """Beginning of the model files' names, with the resolution."""
        return f"{self.model_name}_{self.model.preprocessing.size}"

    @property
    def decoded(self) -> bool:
        """Whether the files include the decode: they give keypoints, not heatmaps."""
        return self.model.network.four_heads

    @property
    def metadata(self) -> str:
        """The description that every model file carries."""
        return description(
            self.model.skeleton,
            self.model.preprocessing,
            probabilities=self.config.ends_in_sigmoid or self.decoded,
            pose=self.config.pose if self.decoded else None,
        )

    @cached_property
    def data_entries(self) -> dict[str, dict[str, Any] | None]:
        """The manifest's entry `data`: counts and hashes of the labels."""
        return {
            "training": data_entry(self.data.training),
            "evaluation": data_entry(self.data.evaluation),
        }

    def check(self) -> None:
        """Refuses what cannot be exported.

        Raises:
            HeatposeError: A name cannot be used, the skeleton does not fit the network, the output
                type does not fit its decode, or a tool is not installed.
        """
        check_place(self.folder.parent, self.name, self.model_name)
        skeleton, network = self.model.skeleton, self.model.network
        if len(skeleton) != network.keypoints:
            raise HeatposeError(
                f"The network has {network.keypoints} heatmaps, but skeleton '{skeleton.name}' has"
                f" {len(skeleton)} keypoints; choose the skeleton it was trained with."
            )
        if self.decoded and self.config.output_dtype == "int8":
            raise HeatposeError(
                "A network whose decode is in the graph has no int8 output; choose"
                " quant.output=float32."
            )
        check_tools(self.config.artefacts)


def check_place(out: Path, name: str, model_name: str) -> None:
    """Refuses names that are not plain file names, and a place that is taken by something else.

    Args:
        out: Folder of all bundles.
        name: Of the bundle.
        model_name: Beginning of its model files' names.

    Raises:
        HeatposeError: A name cannot be used, or `out/name` is not a bundle.
    """
    for label, value in (("name", name), ("model name", model_name)):
        if not value or value != Path(value).name or value.startswith("."):
            raise HeatposeError(
                f"'{value}' is not a valid {label} for a bundle; use letters, digits, '-' and '_'."
            )
    target = out / name
    if target.exists() and not Bundle.is_bundle(target):
        raise HeatposeError(
            f"'{target}' exists and is not a bundle; choose another name or move it away."
        )


def check_tools(artefacts: Sequence[Artefact]) -> None:
    """Refuses to start without the tools that these TFLite files need.

    Raises:
        HeatposeError: A tool is not installed.
    """
    if artefacts:
        check_installed()
