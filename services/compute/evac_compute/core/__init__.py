"""A node's decisions: values in, values with reasons out. No clock, no IO, no await, no log."""
