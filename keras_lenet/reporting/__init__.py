"""What people read: the page, plots, comparisons of runs, the model card."""
