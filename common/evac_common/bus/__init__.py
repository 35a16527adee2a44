"""The bus: a port, the topology, and two adapters (RabbitMQ, embedded) that pass one contract suite."""
