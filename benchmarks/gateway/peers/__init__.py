"""The proxies the gateway is compared with, each with nothing but forwarding in it."""
