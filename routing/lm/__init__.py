"""The two embedded, tiny language models: training, export and sampling."""
