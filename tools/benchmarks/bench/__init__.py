"""What the benchmarks share: jobs in processes, results in files, tables over seeds."""
