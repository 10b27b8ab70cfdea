"""Images per second of a training by Heatpose over those of ST's Keras pipeline.

    python benchmarks/training_against_keras.py [--train COCO] [--rounds 3] [--steps 20]

COCO is a folder in COCO's layout, or an export of a labelling tool (as `data.root`); without it,
people are rendered. `heatpose` trains as `train.py experiment=st_movenet_13kpt` does, with random
weights: data module with its cache of decoded images, augmentation, loss, optimiser, averaged
weights, logger. `keras` is the pipeline of ST's model zoo services, rebuilt from its description
in TensorFlow (the extra `export`): `st_movenet_lightning_heatmaps` with batch norm, whole images
of one person decoded and stretched in every epoch, contrast, brightness, flip and rotation, squared
error against one-hot maps, Adam, `model.fit`. Both have 13 keypoints, 192 x 192, batches of 32 and
no validation. Where the description is open, the faster choice is taken: `tf.data` decodes and
augments in parallel and ahead of the steps, and the flip is a copy, not a projective transform.

Ways that show what the ratio consists of:

    heatpose            in the precision that it chooses on this machine (bfloat16 where it can)
    heatpose_float32    in float32, as Keras computes
    heatpose_norm       in float32 and with batch norm: the graph of `keras`
    keras_cached        images decoded once and kept in memory

Each way runs in a fresh process per round, in turn; the time is that between the ends of steps
after --warm-up of them. Printed are the medians, and the medians of the rounds' ratios.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from measuring import in_fresh_process, training_config
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from heatpose.data.sample import Person

SIDE, CELLS, BATCH = 192, 48, 32
OURS = {
    "heatpose": (),
    "heatpose_float32": ("trainer.precision=32-true",),
    "heatpose_norm": ("trainer.precision=32-true", "model=st_movenet_heatmaps"),
}
"""Ways of Heatpose -> overrides of the configuration."""
KERAS = ("keras", "keras_cached")
WAYS = (*OURS, *KERAS)
WANTED = {"heatpose": ">= 2.5"}
RATES = ("images_per_second", "images_per_cpu_second")
VERSIONS = ("heatpose", "torch", "lightning", "tensorflow", "keras", "numpy", "pillow")


class Clock:
    """Times at the ends of steps: on the wall, and of the processor for all threads."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up = warm_up
        self.ends: list[tuple[float, float]] = []

    def step(self) -> None:
        self.ends.append((time.perf_counter(), time.process_time()))

    def rates(self) -> dict[str, float]:
        """Images per second by both clocks, without the steps of the warm-up."""
        images = BATCH * (len(self.ends) - self.warm_up)
        pairs = zip(RATES, self.ends[self.warm_up - 1], self.ends[-1], strict=True)
        return {name: images / (end - start) for name, start, end in pairs}


def run_heatpose(given: argparse.Namespace, overrides: Sequence[str]) -> dict[str, Any]:
    """Trains as `entries.jobs.train` does, but stops after the steps, without validation."""
    import lightning
    import torch
    from omegaconf import open_dict

    from heatpose.entries import build
    from heatpose.utils.process import keep_freed_memory

    torch.set_num_threads(given.threads)
    config = training_config(given.train, given.folder, given.images, *overrides)
    with open_dict(config):
        config.trainer.max_steps = given.warm_up + given.steps
        config.trainer.max_epochs = -1
        config.trainer.limit_val_batches = 0
        for needs_validation in ("checkpoint", "last", "early_stopping", "prediction_grid"):
            config.callbacks[needs_validation] = None
        config.callbacks.progress = None
        config.trainer.enable_progress_bar = False
    build.setup_libraries(config)
    keep_freed_memory()  # as `training.fit.fit`
    clock = Clock(given.warm_up)

    class Steps(lightning.Callback):
        def on_train_batch_end(self, *unused: Any) -> None:
            clock.step()

    trainer = build.build_trainer(config, Path(given.folder) / "runs" / "timed")
    trainer.callbacks.append(Steps())  # type: ignore[attr-defined]  # a list in Lightning
    skeleton, preprocessing, source = build.build_inputs(config)
    source.prepare()
    network = build.build_network(config, skeleton)
    module = build.build_module(config, network, skeleton, preprocessing, source)
    trainer.fit(module, datamodule=build.build_data(config, source, skeleton, preprocessing))
    return {
        **clock.rates(),
        "precision": str(trainer.precision),
        "parameters": sum(parameter.numel() for parameter in network.parameters()),
        "threads": torch.get_num_threads(),
    }


def people_for_keras(given: argparse.Namespace) -> tuple[list[str], NDArray[np.float32], list[int]]:
    """Images with one person: paths, labels f32[N, K, 3] (x, y as fractions, visible), flip order.

    All instances count where too few are alone, because the content of the maps costs nothing.
    """
    from heatpose.entries import build

    config = training_config(given.train, given.folder, given.images)
    skeleton, _, source = build.build_inputs(config)
    source.prepare()
    everyone: list[Person] = list(source.training(skeleton))
    alone = [person for person in everyone if person.alone]
    people = alone if len(alone) >= BATCH else everyone
    labels = [
        np.concatenate(
            [person.keypoints / (person.width, person.height), person.labelled[:, None]], 1
        )
        for person in people
    ]
    paths = [str(person.image_path) for person in people]
    return paths, np.stack(labels).astype(np.float32), skeleton.flip_order


def keras_network(keypoints: int) -> Any:
    """The graph of `st_movenet_lightning_heatmaps`, with batch norm.

    MobileNetV2 (alpha 1) with taps at strides 4, 8, 16 and 32; laterals without bias; three times
    bilinear upsampling, add, depthwise 3 x 3, 1 x 1 with ReLU; a head of depthwise 3 x 3, 1 x 1 to
    96 channels with ReLU and 1 x 1 with batch norm before the sigmoid.
    """
    from keras import Model, applications, layers

    def convolution(x: Any, channels: int, activation: str | None = None) -> Any:
        x = layers.Conv2D(channels, 1, use_bias=False)(x)
        x = layers.BatchNormalization()(x)
        return x if activation is None else layers.Activation(activation)(x)

    def depthwise(x: Any) -> Any:
        x = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    backbone = applications.MobileNetV2(
        input_shape=(SIDE, SIDE, 3), alpha=1.0, include_top=False, weights=None
    )
    x = convolution(backbone.output, 64)
    for tap, channels, outputs in (
        ("block_9_add", 64, 32),
        ("block_5_add", 32, 24),
        ("block_2_add", 24, 24),
    ):
        lateral = convolution(backbone.get_layer(tap).output, channels)
        x = layers.Add()([layers.UpSampling2D(2, interpolation="bilinear")(x), lateral])
        x = convolution(depthwise(x), outputs, "relu")
    x = convolution(depthwise(x), 96, "relu")
    return Model(backbone.input, convolution(x, keypoints, "sigmoid"))


def keras_batches(
    paths: list[str], labels: NDArray[np.float32], flip_order: list[int], cached: bool
) -> Any:
    """Endless `tf.data` batches: images f32[B, S, S, 3] in [-1, 1] and labels f32[B, K, 3]."""
    import tensorflow as tf

    def read(path: Any, label: Any) -> tuple[Any, Any]:
        image = tf.io.decode_image(tf.io.read_file(path), 3, expand_animations=False)
        image = tf.image.resize(image, (SIDE, SIDE), "nearest")
        return tf.cast(image, tf.float32) / 127.5 - 1, label

    def augment(images: Any, points: Any) -> tuple[Any, Any]:
        count = tf.shape(images)[0]

        def draw(low: float, high: float) -> Any:
            return tf.random.uniform((count,), low, high)

        contrast, brightness = (
            draw(low, high)[:, None, None, None] for low, high in ((0.6, 1.4), (-0.3, 0.3))
        )
        mean = tf.reduce_mean(images, (1, 2), keepdims=True)
        images = (images - mean) * contrast + mean
        images = tf.clip_by_value(images + brightness, -1, 1)

        flipped = draw(0, 1) < 0.5
        images = tf.where(flipped[:, None, None, None], images[:, :, ::-1], images)
        x, y, seen = tf.unstack(points, axis=-1)
        mirrored = tf.gather(tf.stack([1 - x, y, seen], -1), flip_order, axis=1)
        points = tf.where(flipped[:, None, None], mirrored, points)

        angle = draw(-0.2 * np.pi, 0.2 * np.pi)  # up to 36 degrees
        cosine, sine, zero = tf.cos(angle), tf.sin(angle), tf.zeros((count,))
        middle = (SIDE - 1) / 2  # of the first pixel's centre at 0
        # output pixels -> input pixels
        matrix = [
            *(cosine, -sine, middle - cosine * middle + sine * middle),
            *(sine, cosine, middle - sine * middle - cosine * middle),
            *(zero, zero),
        ]
        images = tf.raw_ops.ImageProjectiveTransformV3(
            images=images,
            transforms=tf.stack(matrix, 1),
            output_shape=(SIDE, SIDE),
            fill_value=0.0,
            interpolation="BILINEAR",
        )
        x, y, seen = tf.unstack(points, axis=-1)
        x, y, c, s = x - 0.5, y - 0.5, cosine[:, None], sine[:, None]
        x, y = c * x + s * y + 0.5, c * y - s * x + 0.5
        inside = (x >= 0) & (x < 1) & (y >= 0) & (y < 1)
        return images, tf.stack([x, y, seen * tf.cast(inside, tf.float32)], -1)

    data = tf.data.Dataset.from_tensor_slices((paths, labels))
    if not cached:
        data = data.shuffle(len(paths), seed=0)
    data = data.map(read, tf.data.AUTOTUNE)
    if cached:
        data = data.cache().shuffle(len(paths), seed=0)
    data = data.repeat().batch(BATCH, drop_remainder=True)
    return data.map(augment, tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)


def heatmap_error(labels: Any, maps: Any) -> Any:
    """Mean squared error of maps f32[B, H, W, K] against one-hot maps; 0 for unlabelled ones."""
    import tensorflow as tf

    x, y, seen = tf.unstack(labels, axis=-1)
    columns, rows = (
        tf.one_hot(tf.cast(tf.floor(at * CELLS), tf.int32), CELLS, axis=1) for at in (x, y)
    )
    target = rows[:, :, None] * columns[:, None]
    return tf.reduce_mean((maps - target) ** 2 * seen[:, None, None])


def run_keras(given: argparse.Namespace, cached: bool) -> dict[str, Any]:
    """Trains by `model.fit`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(given.threads)
    tf.config.threading.set_inter_op_parallelism_threads(given.threads)
    paths, labels, flip_order = people_for_keras(given)
    keras.utils.set_random_seed(0)
    clock = Clock(given.warm_up)

    class Steps(keras.callbacks.Callback):  # type: ignore[misc]  # Keras has no types
        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            clock.step()

    network = keras_network(labels.shape[1])
    network.compile(
        optimizer=keras.optimizers.Adam(1e-3), loss=heatmap_error, jit_compile=given.xla
    )
    network.fit(
        keras_batches(paths, labels, flip_order, cached),
        steps_per_epoch=given.warm_up + given.steps,
        epochs=1,
        verbose=0,
        callbacks=[Steps()],
    )
    return {
        **clock.rates(),
        "precision": keras.config.dtype_policy().name + (", XLA" if given.xla else ""),
        "parameters": int(sum(np.prod(weight.shape) for weight in network.trainable_weights)),
        "threads": tf.config.threading.get_intra_op_parallelism_threads(),
    }


def run_one(given: argparse.Namespace) -> dict[str, Any]:
    """One way, in this process."""
    if given.one in OURS:
        return run_heatpose(given, OURS[given.one])
    return run_keras(given, given.one == "keras_cached")


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """All ways in turn, each in fresh processes."""
    threads = str(given.threads)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "KERAS_BACKEND": "tensorflow"}
    chosen = [f"--{name}={getattr(given, name)}" for name in ("folder", "images", "threads")]
    chosen += [f"--warm-up={given.warm_up}", f"--steps={given.steps}"]
    chosen += ([f"--train={given.train}"] if given.train else []) + (["--xla"] if given.xla else [])
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in given.ways}
    for number in range(given.rounds):
        for way, runs in found.items():
            runs.append(
                in_fresh_process(__file__, f"--one={way}", *chosen, environment=environment)
            )
            rate = runs[-1]["images_per_second"]
            print(f"round {number + 1}, {way}: {rate:.1f} images/s", flush=True)
    return {
        "threads": given.threads,
        "cores": os.cpu_count(),
        "data": given.train or f"{given.images} rendered images",
        "versions": {name: importlib.metadata.version(name) for name in VERSIONS},
        "ways": {way: result_of(way, found) for way in found},
    }


def result_of(way: str, found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Median speeds of a way, and for those of Heatpose the medians of the ratios to Keras."""
    rates = {name: [run[name] for run in found[way]] for name in RATES}
    result = {**found[way][0], "rates": rates}
    for name, of in rates.items():
        result[name] = statistics.median(of)
        for other in KERAS:
            if way in OURS and other in found:
                ratios = [a / run[name] for a, run in zip(of, found[other], strict=True)]
                result[f"{name}_over_{other}"] = statistics.median(ratios)
    return result


def shown(result: dict[str, Any]) -> Table:
    """One row per way."""
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    table = Table(
        title=f"Training, {result['threads']} of {result['cores']} threads, {result['data']}",
        caption=f"x: over that way, on the wall (by processor time of all threads). {versions}",
    )
    for heading in ("way", "precision", "parameters", "images/s", *KERAS, "wanted"):
        table.add_column(heading, justify="left" if heading in ("way", "precision") else "right")
    for way, of in result["ways"].items():
        ratios = [
            f"{of[f'{RATES[0]}_over_{k}']:.2f} x ({of[f'{RATES[1]}_over_{k}']:.2f})"
            if f"{RATES[0]}_over_{k}" in of
            else ""
            for k in KERAS
        ]
        rate, parameters = f"{of['images_per_second']:.1f}", f"{of['parameters'] / 1e6:.2f} M"
        table.add_row(way, of["precision"], parameters, rate, *ratios, WANTED.get(way, ""))
    return table


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", help="training data in COCO's layout")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each run")
    parser.add_argument("--warm-up", type=int, default=5, help="steps before them")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--images", type=int, default=1200, help="rendered images")
    parser.add_argument("--xla", action="store_true", help="let Keras compile its steps")
    parser.add_argument("--folder", help="for caches and rendered people; a temporary one")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--one", choices=WAYS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.warm_up < 1 or given.steps < 1:
        parser.error("--warm-up and --steps must be 1 or more")
    if given.one:
        print(json.dumps(run_one(given)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        given.folder = str(Path(given.folder or temporary).resolve())
        given.train = given.train and str(Path(given.train).resolve())
        result = measure(given)
    Console().print(shown(result))
    if given.json is not None:
        given.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
