"""The database: one module per owner holds its tables; only the owner's code writes them.

`engine` opens transactions, `intent`, `placement`, `nodes`, `outbox` declare tables, `migrations/`
creates them together with the ledger's triggers and, on PostgreSQL, roles and grants.
Writing statements live in the owning service (`evac_<service>/adapters/`); a test checks that.
"""
