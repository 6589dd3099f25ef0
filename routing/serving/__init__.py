"""The service: a router behind an endpoint of OpenAI's protocol."""
