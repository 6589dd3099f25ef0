"""Studies behind the documentation: promises, the optimum, the protocols."""
