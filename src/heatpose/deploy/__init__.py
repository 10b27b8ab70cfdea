"""From a bundle to a board: targets, deployment package, ST Edge AI Core, reports, estimates.

To add a board: write `conf/target/NAME.yaml` (fields: `targets.Target`).
"""
