"""From a profile to a plan, by arithmetic alone: ``plan.json``."""
