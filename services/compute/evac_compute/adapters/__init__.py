"""What touches the world: the hypervisors, the journal's file, the machine's identity."""
