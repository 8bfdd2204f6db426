"""HTTP in and out of the gateway: routes, payload codecs and the table of status codes."""
