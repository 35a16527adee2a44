"""The bus: a port, the topology, and two adapters (RabbitMQ, embedded) under one contract."""
