"""What runs models: loading, retrieval, generation, judging, training, merging."""
