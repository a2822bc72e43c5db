"""The broker on RabbitMQ, with quorum queues, publisher confirms and delay queues."""
