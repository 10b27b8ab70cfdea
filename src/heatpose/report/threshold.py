"""Section on the score threshold: precision, recall and F1 of the keypoints that it shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heatpose.evaluation.threshold import CORRECT, ThresholdCurve
from heatpose.report.bundle import FORMS, Bundle
from heatpose.report.content import Values, reading
from heatpose.report.plots import colour, figure, scatter


def thresholds(bundles: Sequence[Bundle]) -> Values:
    """A plot for each int8 file with a measured curve; of several bundles for the first of each."""
    figures, missing = list[dict[str, Any]](), list[str]()
    for bundle in bundles:
        measured = [a for a in bundle.artefacts if a.entry.get("threshold") is not None]
        if not measured:
            missing.append(f"No score threshold was measured for '{bundle.label}'.")
        for artefact in measured if len(bundles) == 1 else measured[:1]:
            form = artefact.form
            with reading(f"The threshold of {artefact.title} of '{bundle.label}'", missing):
                heading = FORMS[form] if len(bundles) == 1 else f"{bundle.label}: {form}"
                figures.append(
                    {"name": f"threshold_{len(figures)}", "heading": heading}
                    | _plot(artefact.entry["threshold"])
                )
    return {"figures": figures, "missing": missing, "correct": CORRECT}


def _plot(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Specification and caption of a plot.

    Args:
        entry: `ThresholdCurve.to_dict`.
    """
    arrays = (np.asarray(entry[k], np.float64) for k in ("thresholds", "precision", "recall"))
    curve = ThresholdCurve(*arrays, int(entry["keypoints"]), int(entry["instances"]))
    best = float(entry["best"])
    traces = [
        scatter(
            name,
            curve.thresholds.tolist(),
            (100 * values).tolist(),
            f"{name} from a score of %{{x:.2f}}: %{{y:.1f}} %",
            "lines",
            line={"width": 2, "color": colour(i)},
        )
        for i, (name, values) in enumerate(
            (("precision", curve.precision), ("recall", curve.recall), ("F1", curve.f1))
        )
    ]
    at_best = [
        float(np.interp(best, curve.thresholds, 100 * values))
        for values in (curve.precision, curve.recall, curve.f1)
    ]
    chosen = {"size": 11, "color": [colour(i) for i in range(3)], "symbol": "circle"}
    traces.append(
        scatter(f"chosen: {best:.2f}", [best] * 3, at_best, "%{x:.2f}: %{y:.1f} %", marker=chosen)
    )
    caption = (
        f"Chosen: {best:.2f}, with precision {at_best[0]:.1f} %, recall {at_best[1]:.1f} % and F1"
        f" {at_best[2]:.1f} %. Measured on {curve.instances} held-out training instances with"
        f" {curve.keypoints} keypoints, used for neither calibration nor QAT."
    )
    return {"spec": figure(traces, x="score threshold", y="%"), "caption": caption}
