"""All that looks at queue and workers: status, doctor, Prometheus, Flower."""
