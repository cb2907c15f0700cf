"""What is stored: recipes, runs, experiments and judgements, with their types."""
