//! Both kinds of database have the same tables.

use std::collections::BTreeSet;

use super::*;

/// Tables that only a database of several administrators has.
const SHARED: [&str; 1] = ["documents."];

/// Every column of every table of ours, as `runs.run TEXT key`.
async fn columns(database: &Database, of_all: &'static str) -> BTreeSet<String> {
    let rows = database.fetch(Query::new(of_all)).await.expect("the columns");
    rows.iter().map(|row| row.text("name").expect("a name")).collect()
}

#[tokio::test]
async fn both_have_the_same_tables_and_columns() {
    let Some(server) = umsid_testkit::PostgresServer::shared() else { return };
    let url = server.database().parse().expect("a URL");
    let (dir, server) =
        (umsid_testkit::scratch(), Database::open(&Location::Server(url)).await.expect("open"));
    let file = Database::open(&Location::File(dir.path().join("state.db"))).await.expect("open");
    let of_file = columns(
        &file,
        "SELECT m.name || '.' || c.name || ' ' || c.type || ' ' || CASE c.pk WHEN 0 THEN 'no key' ELSE 'key' END AS name \
         FROM sqlite_schema m JOIN pragma_table_info(m.name) c \
         WHERE m.type = 'table' AND m.name NOT LIKE '%sqlx%'",
    )
    .await;
    let of_server = columns(
        &server,
        "SELECT c.table_name || '.' || c.column_name || ' ' || upper(c.data_type) || ' ' || \
         CASE WHEN k.column_name IS NULL THEN 'no key' ELSE 'key' END AS name \
         FROM information_schema.columns c LEFT JOIN information_schema.table_constraints t \
         ON t.table_name = c.table_name AND t.constraint_type = 'PRIMARY KEY' \
         LEFT JOIN information_schema.key_column_usage k \
         ON k.constraint_name = t.constraint_name AND k.column_name = c.column_name \
         WHERE c.table_schema = 'public' AND c.table_name NOT LIKE '%sqlx%'",
    )
    .await;
    assert!(of_file.len() > 10, "{of_file:?}");
    let shared: BTreeSet<String> = of_server
        .iter()
        .filter(|name| !SHARED.iter().any(|table| name.starts_with(table)))
        .cloned()
        .collect();
    assert_eq!(of_file, shared);
}
