"""Kubernetes: admission of pods and its certificates, the node's agent, the plugin of its runtime."""
