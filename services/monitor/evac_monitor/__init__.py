"""Decides which nodes live, which may be cut off, which are proven dead. Owns nodes' states."""

__version__ = "0.1.0"
