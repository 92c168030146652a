"""The C++ compiler that torch uses."""

import os
import shutil
import sys


def compiler_name() -> str:
    """Return the name of the compiler, or its path."""
    return os.environ.get("CXX", "clang++" if sys.platform == "darwin" else "g++")


def has_compiler() -> bool:
    """Return True if the compiler is installed."""
    return shutil.which(compiler_name()) is not None
