"""Initial weights of a network: random, ImageNet, a checkpoint, or Google's MoveNet files.

To add an initialisation:

1. Write a function here that takes the new network, the skeleton and settings, and returns the
   network to train.
2. Add a file to `conf/init/` whose `_target_` names it (with `_partial_: true`).
"""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import torch
from torch import nn

from heatpose.bundles.facts import tflite_facts
from heatpose.bundles.released import resolve
from heatpose.errors import HeatposeError, first_line
from heatpose.models.checkpoint import load_checkpoint
from heatpose.models.movenet import MoveNet, with_upsampling
from heatpose.models.tflite_import import import_movenet
from heatpose.pose.skeleton import Skeleton, for_keypoint_count
from heatpose.utils.files import atomic_write, require_writable, sha256
from heatpose.utils.transfer import RemoteFile, TransferError, fetch

_CHANNELS = {"head": 1, "regression": 2, "offset": 2}
"""Output channels per keypoint, by the head's name in the state; the centre has none."""


def from_scratch(network: MoveNet, skeleton: Skeleton) -> MoveNet:
    """Random weights (Kaiming), batch norm."""
    return network


def from_imagenet(network: MoveNet, skeleton: Skeleton, path: str | None = None) -> MoveNet:
    """torchvision's ImageNet weights for the backbone; pyramid and head stay random.

    torchvision's MobileNetV2 was trained with symmetric padding and another normalisation of the
    input, to which the first epochs adapt.

    Args:
        network: Width 1.0 with batch norm.
        skeleton: Not used, because the head is new.
        path: A downloaded file (`mobilenet_v2-*.pth`); without it torchvision downloads the weights
            into its cache.

    Raises:
        HeatposeError: The width is not 1.0, or the weights cannot be read or downloaded.
    """
    if network.settings["width"] != 1.0 or not network.settings["norm"]:
        raise HeatposeError(
            "ImageNet weights exist for width 1.0 with batch norm only; set model.width=1.0 or"
            " choose init=scratch."
        )
    state = _imagenet_state(path)
    kinds = (nn.Conv2d, nn.BatchNorm2d)
    own = [m for m in network.backbone.modules() if isinstance(m, kinds)]
    names = list(
        dict.fromkeys(name.rpartition(".")[0] for name in state if name.startswith("features."))
    )
    if len(names) != len(own):
        raise HeatposeError(
            f"The ImageNet weights have {len(names)} layers where MobileNetV2 has {len(own)}; give"
            " torchvision's mobilenet_v2 file."
        )
    try:
        for module, name in zip(own, names, strict=True):
            module.load_state_dict(
                {
                    key.rpartition(".")[2]: value
                    for key, value in state.items()
                    if key.rpartition(".")[0] == name
                }
            )
    except RuntimeError as error:
        raise HeatposeError(
            f"The ImageNet weights do not fit MobileNetV2 ({str(error).splitlines()[-1].strip()})."
        ) from error
    return network


def _imagenet_state(path: str | None) -> dict[str, torch.Tensor]:
    try:
        if path is not None:
            return dict(torch.load(path, map_location="cpu", weights_only=True))
        # Imported here: torchvision takes seconds to import and only this needs it.
        from torchvision.models import MobileNet_V2_Weights

        return dict(
            MobileNet_V2_Weights.IMAGENET1K_V2.get_state_dict(progress=True, check_hash=True)
        )
    except Exception as error:  # urllib, ssl, pickle and torch each raise their own kinds here
        raise HeatposeError(
            f"The ImageNet weights could not be read ({type(error).__name__}: {first_line(error)});"
            " download torchvision's mobilenet_v2 file and set init.path, or choose"
            " init=movenet_lightning or init=scratch."
        ) from error


def from_checkpoint(network: MoveNet, skeleton: Skeleton, path: str | None = None) -> MoveNet:
    """The network of a Heatpose checkpoint, its keypoints mapped onto the skeleton's.

    A keypoint of the same name keeps its channel (`map_keypoints`).

    Args:
        network: Its width and heads must be the checkpoint's; its upsampling is used.
        skeleton: Of the result.
        path: The checkpoint, or the name of a released network.

    Raises:
        HeatposeError: No checkpoint, no common keypoint, or another width or other heads.
    """
    if path is None:
        raise HeatposeError("init=checkpoint needs init.path=FILE.ckpt or the name of a network.")
    path = str(resolve(path, "checkpoint"))
    loaded = load_checkpoint(path)
    _check_settings(path, loaded.network, network)
    found = with_upsampling(loaded.network, network.settings["upsample"])
    return map_keypoints(found, loaded.skeleton, skeleton, path)


def from_movenet(
    network: MoveNet, skeleton: Skeleton, path: str | None = None, variant: str = "lightning"
) -> MoveNet:
    """Weights of a MoveNet TFLite file, its keypoints mapped to the skeleton's.

    The file's keypoints are those stated by the file or its bundle, else the built-in skeleton of
    that number (Google's files have 17). The network has no batch norm, because the file's
    convolutions are folded.

    Args:
        network: Its channels must equal the file's; its heads and upsampling are used.
        skeleton: Of the result.
        path: The file (int8, float16 or float32), or the name of a released network; without it,
            Google's file is downloaded once.
        variant: Of Google's files: "lightning" or "thunder".

    Raises:
        HeatposeError: The file is missing, not a MoveNet, or differs from `network` (the message
            names the first layer), or Google's file cannot be downloaded.
    """
    if path is None:
        if variant not in PUBLISHED:
            choices = " or ".join(PUBLISHED)
            raise HeatposeError(f"init.variant={variant} is unknown; choose {choices}.")
        path = str(published_file(PUBLISHED[variant]))
    path = str(resolve(path))
    imported = import_movenet(path, network)
    own = tflite_facts(Path(path)).checked(Path(path), imported.keypoints).skeleton
    source = own or for_keypoint_count(imported.keypoints)
    return map_keypoints(imported, source, skeleton, path)


def map_keypoints(
    network: MoveNet, source: Skeleton, target: Skeleton, path: str = "The network"
) -> MoveNet:
    """Rearranges the output channels of a network's heads for another skeleton.

    A keypoint of the same name keeps its channel. A merged one (`head`) is initialised from its
    first existing source, the nose, which scores higher on the development images than the mean of
    the face maps. A keypoint without a source is initialised randomly, and is printed.

    Args:
        network: With the keypoints of `source`.
        source: Its skeleton.
        target: Skeleton of the result.
        path: Name of the weights, for messages.

    Raises:
        HeatposeError: The skeletons have no common keypoint.
    """
    if list(source.keypoints) == list(target.keypoints):
        return network
    result = MoveNet(**{**network.settings, "keypoints": len(target)})
    rows = [
        next(
            (source.index(n) for n in (name, *target.merge.get(name, ())) if n in source.keypoints),
            None,
        )
        for name in target.keypoints
    ]
    known = [(k, row) for k, row in enumerate(rows) if row is not None]
    if not known:
        raise HeatposeError(
            f"'{path}' has none of the keypoints of skeleton '{target.name}' (it has"
            f" {', '.join(source.keypoints)}); rename them, or choose init=imagenet or scratch."
        )
    if new := [name for name, row in zip(target.keypoints, rows, strict=True) if row is None]:
        print(
            f"Keypoints without initial weights in '{path}', which start at random: "
            f"{', '.join(new)}."
        )
    fresh = result.state_dict()
    for key, value in network.state_dict().items():
        channels = (
            _CHANNELS.get(key.partition(".output.")[0])
            if ".output." in key and value.dim()
            else None
        )
        if channels is None:
            fresh[key] = value
            continue
        for k, row in known:  # `channels` adjacent ones per keypoint: one map, or y and x
            fresh[key][channels * k : channels * (k + 1)] = value[
                channels * row : channels * (row + 1)
            ]
    result.load_state_dict(fresh)
    return result.train(network.training)


def _check_settings(path: str, found: MoveNet, wanted: MoveNet) -> None:
    for key in ("width", "heads"):
        value = found.settings[key]
        if value != wanted.settings[key]:
            raise HeatposeError(
                f"'{path}' has {key} {value}, but model.{key} is {wanted.settings[key]}; set"
                f" model.{key}={value}, or begin with random weights (recipe=scratch)."
            )


PAGE = "https://www.kaggle.com/models/google/movenet"
"""Page with the files, for manual downloads."""


@dataclass(frozen=True)
class Address:
    """An address of a file.

    Attributes:
        url: Of the file, or of a tar archive with it.
        packed: Whether it is an archive. The server makes it on demand, so its size and hash are
            not known.
    """

    url: str
    packed: bool = False


@dataclass(frozen=True)
class PublishedFile:
    """A published file with weights, identified by its hash.

    Attributes:
        title: For messages.
        name: In the cache folder.
        size: In bytes.
        sha256: Hexadecimal.
        addresses: In the order in which they are tried.
    """

    title: str
    name: str
    size: int
    sha256: str
    addresses: tuple[Address, ...]


def _addresses(variant: str) -> tuple[Address, ...]:
    """TensorFlow Hub, Kaggle (its successor, without an account), TensorFlow Hub's storage."""
    path = f"google/lite-model/movenet/singlepose/{variant}/tflite/float16/4"
    kaggle = f"google/movenet/tfLite/singlepose-{variant}-tflite-float16/1"
    return (
        Address(f"https://tfhub.dev/{path}?lite-format=tflite"),
        Address(f"https://www.kaggle.com/api/v1/models/{kaggle}/download", packed=True),
        Address(f"https://storage.googleapis.com/tfhub-lite-models/{path}.tflite"),
    )


# Sizes and SHA-256 agree in several independent projects that record them for these files.
PUBLISHED: Mapping[str, PublishedFile] = {
    "lightning": PublishedFile(
        title="Google's MoveNet SinglePose Lightning (version 4, float16)",
        name="movenet_singlepose_lightning_float16_4.tflite",
        size=4_758_512,
        sha256="0fac2226112d0371903ca86e3853cec24ef603a0b2f96f589b180f0ebdd135ab",
        addresses=_addresses("lightning"),
    ),
    "thunder": PublishedFile(
        title="Google's MoveNet SinglePose Thunder (version 4, float16)",
        name="movenet_singlepose_thunder_float16_4.tflite",
        size=12_584_128,
        sha256="41641538679ec79b07d4101e591dda47d098c09af29607674b2a40b8a3798dd3",
        addresses=_addresses("thunder"),
    ),
}


def cache_folder() -> Path:
    """`heatpose` in XDG_CACHE_HOME, else in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(os.path.expanduser(base)) / "heatpose"


def published_file(file: PublishedFile) -> Path:
    """The path of a file in the cache folder; downloads it if it is missing or has changed.

    Raises:
        HeatposeError: No address has the file, or the cache folder is not writable.
    """
    # Imported here: only downloads need it. The lock prevents two runs from writing one file.
    from filelock import FileLock

    folder = cache_folder()
    target = folder / file.name
    if _is_whole(file, target):
        return target
    try:
        require_writable(folder)
    except HeatposeError as error:
        reason = str(error).partition(";")[0]
        raise HeatposeError(
            f"{reason}, where {file.title} is to be kept; set XDG_CACHE_HOME to another folder, or "
            "init.path=FILE."
        ) from error
    with FileLock(folder / f".{file.name}.lock"):
        if not _is_whole(file, target):
            _bring(file, target)
    return target


def _is_whole(file: PublishedFile, path: Path) -> bool:
    return path.is_file() and path.stat().st_size == file.size and sha256(path) == file.sha256


def _bring(file: PublishedFile, target: Path) -> None:
    """Downloads the file from the first address that has it."""
    target.unlink(missing_ok=True)  # damaged
    reasons = []
    for address in file.addresses:
        try:
            _fetch(file, address, target)
        except TransferError as error:
            reasons.append(f"{urlsplit(address.url).netloc}: {error.reason}")
        else:
            print(f"{file.title} is fetched from {address.url} and kept as '{target}'.")
            return
    raise HeatposeError(
        f"{file.title} cannot be fetched from {file.addresses[0].url} ({'; '.join(reasons)}); check"
        f" the network and run again, download the file from {PAGE} and set init.path=FILE, or"
        " start from a released network: init=checkpoint init.path=st_movenet_17kpt_192."
    )


def _fetch(file: PublishedFile, address: Address, target: Path) -> None:
    if not address.packed:
        fetch(RemoteFile(address.url, file.size, file.sha256), target, attempts=2)
        return
    archive = target.with_name(target.name + ".tar.gz")
    try:
        fetch(RemoteFile(address.url, None, None), archive, attempts=2)
        _unpack(file, archive, target)
    finally:
        archive.unlink(missing_ok=True)  # not needed; a partial download has another name


def _unpack(file: PublishedFile, archive: Path, target: Path) -> None:
    """Extracts the file from the archive; reads and writes nothing else.

    Raises:
        TransferError: It is not an archive with that file.
    """
    unpacked = target.with_name(target.name + ".unpacked")
    try:
        with tarfile.open(archive) as entries, atomic_write(target, part=unpacked, sync=True):
            found = next((m for m in entries if m.isfile() and m.size == file.size), None)
            content = entries.extractfile(found) if found is not None else None
            if content is None:
                raise TransferError("", "the archive has no file of the known size")
            unpacked.write_bytes(content.read())
            if (digest := sha256(unpacked)) != file.sha256:
                raise TransferError("", f"the file has the wrong checksum, SHA-256 {digest}")
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise TransferError("", f"the archive is damaged: {error}") from error
