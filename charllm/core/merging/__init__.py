"""Model merging: the recipe (mergekit YAML), its parents, and how they are blended."""
