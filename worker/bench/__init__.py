"""`worker bench`: what a model costs in every engine and precision, beside what users had."""
