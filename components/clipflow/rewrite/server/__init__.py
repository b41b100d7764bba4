"""server: what generators share that ask a server which speaks OpenAI's HTTP API."""
