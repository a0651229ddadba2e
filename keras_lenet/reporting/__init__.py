"""Output for people: the report page, plots, comparisons of runs, the model card."""
