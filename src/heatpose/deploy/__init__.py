"""From a bundle to a board: what each target takes, the folder that is handed over, ST's compiler, its reports, and estimates before any tool.

`targets.py` says what a board is (`conf/target/*.yaml` or a file of the user's), `rules.py` holds a model file against it, `folder.py` writes the hand-off;
`stedgeai.py`, `process.py` and `diagnosis.py` find and run ST Edge AI Core and tell what went wrong; `c_info.py`, `text_report.py` and `outcome.py` read
what it made; `features.py` and `estimate.py` predict RAM, flash and time; `c_header.py` and `c/` are what an application is built with, `board/` runs on
Linux boards.
"""
