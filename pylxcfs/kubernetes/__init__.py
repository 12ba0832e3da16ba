"""Kubernetes: admission of pods, certificates for it, and what programs want to know of limits."""
