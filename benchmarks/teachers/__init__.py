"""Teachers compared at one schedule: what came of ``experiments/teachers/compare_*.yml``."""
