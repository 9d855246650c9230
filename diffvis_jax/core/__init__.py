"""The differential step: cache, plan, execution."""
