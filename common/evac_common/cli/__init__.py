"""`evac`, the command of operators: it talks to the api and to nothing else."""
