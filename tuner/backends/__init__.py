"""What "spend FLOPs, report loss" means: one contract, one module a backend."""
