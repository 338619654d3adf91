"""What does a local model cost, and what does the service add to it?"""
