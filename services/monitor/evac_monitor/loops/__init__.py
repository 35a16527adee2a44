"""What the monitor does by itself, again and again: pulse, probe, tick, sweep, fencing."""
