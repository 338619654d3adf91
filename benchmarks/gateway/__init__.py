"""What the gateway costs, beside a direct connection, nginx, plain proxies and LiteLLM, in one run."""
