"""How good an annotation is: two annotations of the same episodes compared, or one with the truth."""
