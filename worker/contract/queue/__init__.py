"""The queue: Celery's application, our transport below it, leases of messages."""
