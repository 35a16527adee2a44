"""What the parts of evac share: the wire, the model, the bus, the store and the service kit."""
