"""Targets carry out steps and yield what happened. They decide nothing, print nothing, store nothing, hide nothing."""
