"""tests/unit/registry_sync/plan"""
