"""What a run or a benchmark looks like: pages and tables made of typed records. Computes no score."""
