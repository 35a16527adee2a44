"""Decisions: plain values in, values with reasons out. No clock, no IO, no log, no await."""
