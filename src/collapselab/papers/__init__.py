"""The experiments of the papers: what they state, measured and judged."""
