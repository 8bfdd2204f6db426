"""tests/unit/registry_sync/daemon"""
