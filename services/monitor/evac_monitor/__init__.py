"""Decides which nodes live, which may be cut off, and which are proven dead. Owns the nodes' states."""
