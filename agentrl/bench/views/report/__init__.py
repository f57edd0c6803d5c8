"""The report of benchmarks: one page, without network, with every transcript inside."""
