"""The bus on RabbitMQ (aio-pika), supervised by ourselves."""

from evac_common.bus.rabbitmq.client import RabbitBus

__all__ = ["RabbitBus"]
