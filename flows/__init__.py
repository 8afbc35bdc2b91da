"""What runs and in which order: the Prefect flow, the inline engine and the `annotate` command."""
