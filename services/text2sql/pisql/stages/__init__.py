"""The stages S0 to S12 of Pi-SQL, one module each."""
