"""What arrives: reports, applied in one transaction each, and events, which only say "look now"."""
