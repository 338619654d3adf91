"""What running a model-written program safely costs, and where the time goes."""
