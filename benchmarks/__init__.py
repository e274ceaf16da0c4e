"""Measures cdc-counter side by side with what else one would use: `python -m benchmarks` or `make bench`.

A section is a module of its own (`sections.py` lists them). It measures with a `Bench`, which keeps one value per round
of every figure; `evidence.py` keeps the file, `targets.py` judges, `page.py` and `chart.py` draw what the file says.
"""
