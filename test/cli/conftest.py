"""Recordings need a package that wants NumPy 2: beside NumPy 1 they are left out."""

import importlib.util

collect_ignore = [] if importlib.util.find_spec("rerun") else ["test_rerun.py"]
