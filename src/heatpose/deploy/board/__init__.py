"""What runs on a Linux board.

`pose_app.py` is copied into the deployment package, with the few modules of heatpose that it needs.
"""
