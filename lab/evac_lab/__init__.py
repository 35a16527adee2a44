"""Whole clusters on one machine: simulated in virtual time, or real in namespaces."""
