"""Compute: the one per node that starts and stops instances, and refuses what it cannot trust."""
