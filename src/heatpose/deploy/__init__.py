"""From a bundle to a board: targets, the deployment package, ST Edge AI Core and its reports.

And estimates.
"""
