"""A model's files, judged by their headers alone: needs neither torch nor transformers, and reads no weights."""
