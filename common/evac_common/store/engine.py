"""Open the database and run transactions on it.

    store = Store.open("postgresql+psycopg://...", service="scheduler", clock=clock)
    async with store.transaction() as tx:
        await tx.execute(...)
        store.emit(tx, NodeDown(...))      # event row + outbox row, same transaction

PostgreSQL: READ COMMITTED, compare-and-set statements. SQLite: WAL, `synchronous=FULL`,
`BEGIN IMMEDIATE`, one process. Errors of the driver become StoreUnavailable or UnprovenAssignment here.
"""
