"""charllm: build, compare and judge role-play character language models.

Importing the package loads nothing heavy; torch, transformers, gradio and chromadb are
imported by the functions that need them.
"""

__version__ = "0.1.0"
