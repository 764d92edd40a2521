"""Folders whose files are not the user's: torch's, this package's and Python's library."""

import os

import torch

_FILES = (torch.__file__, __file__, os.__file__)
LIBRARIES = tuple(os.path.dirname(os.path.abspath(str(path))) + os.sep for path in _FILES)
