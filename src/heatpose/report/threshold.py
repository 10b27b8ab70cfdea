"""Section on the score threshold: precision, recall and F1 of the shown keypoints."""

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
    scores, precision, recall = (
        np.asarray(entry[key], np.float64) for key in ("thresholds", "precision", "recall")
    )
    curve = ThresholdCurve(
        scores, precision, recall, int(entry["keypoints"]), int(entry["instances"])
    )
    lines = {"precision": 100 * precision, "recall": 100 * recall, "F1": 100 * curve.f1}
    traces = [
        scatter(
            name,
            scores.tolist(),
            values.tolist(),
            f"threshold %{{x:.2f}}: {name} %{{y:.1f}} %",
            "lines",
            line={"width": 2, "color": colour(i)},
        )
        for i, (name, values) in enumerate(lines.items())
    ]
    best = float(entry["best"])
    chosen = [float(np.interp(best, scores, values)) for values in lines.values()]
    ring = {"size": 11, "color": colour(3), "symbol": "circle-open", "line": {"width": 2.5}}
    traces.append(scatter("chosen", [best] * 3, chosen, "%{x:.2f}: %{y:.1f} %", marker=ring))
    caption = (
        f"Chosen: {best:.2f}, with precision {chosen[0]:.1f} %, recall {chosen[1]:.1f} % and F1"
        f" {chosen[2]:.1f} %. Measured on {curve.instances} held-out training instances with"
        f" {curve.keypoints} keypoints, used for neither calibration nor QAT."
    )
    return {"spec": figure(traces, x="score threshold", y="%"), "caption": caption}
