"""Reports on experiments: a table, data, or a page of pictures."""
