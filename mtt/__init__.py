"""Dataset distillation by matching training trajectories: leaf modules, each one idea; what runs them stands in `stages`."""
