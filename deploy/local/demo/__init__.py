"""The demo: models that it trains and logs, its clients, and a model that draws.

Nothing else imports it.
"""
