"""Scorers, one a file: gate, style, relevance, and the score made of them."""
