"""The language side of a vision-language model."""
