"""A checkpoint's model and tokenizer, and the comparison of two models."""
