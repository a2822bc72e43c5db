"""The broker on RabbitMQ: quorum queues, publisher confirms, delays inside the broker."""
