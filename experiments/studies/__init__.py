"""Studies behind the documents: coverage of promises, the optimum, tables."""
