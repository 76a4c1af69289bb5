"""Probes read the world into frozen facts. They decide nothing and change nothing."""
