"""tests/unit/registry_sync/sources"""
