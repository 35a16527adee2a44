"""Pure decisions of the monitor: values in, values with reasons out. No clock, IO, await or log."""
