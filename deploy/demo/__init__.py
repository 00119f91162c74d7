"""The demo: two tenants, two adapters, one handbook, on one machine. Run: python -m deploy.demo serve"""
