"""The life of a job: send images, collect results, resume. A library, without the CLI."""
