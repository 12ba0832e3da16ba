"""Kubernetes: admission of pods, its certificates, a node's agent, the plugin of its runtime."""
