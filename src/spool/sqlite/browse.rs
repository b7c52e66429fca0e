//! The queue a page at a time, for operators: filtered, sorted, and continued after the last item
//! shown.
//!
//! Reads by a connection of its own, so that no delivery waits for a page. A page begins after a
//! position and not after a number of items: deliveries in between shift nothing, and the last page
//! costs what the first does. Only the order by attempts and the search in subjects read all rows
//! of the items.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::queue;
use super::rows::{readable, time, unsigned};
use crate::spool::view::{
    BrowseRequest, PageCursor, QueueCounts, QueueEntry, QueuePage, SearchTerm, SortOrder,
    StateFilter,
};

/// A part of an order: a set of items with one sort key.
struct Part {
    only: &'static str,
    key: &'static str,
    order: &'static str,
    /// Condition for the items after `:key` and `:seq`.
    after: &'static str,
}

const BY_AGE: Part = Part {
    only: "1",
    key: "item.seq",
    order: "item.seq",
    after: "item.seq > :seq",
};

fn parts(order: SortOrder) -> Vec<Part> {
    match order {
        SortOrder::DeadFirst => vec![
            Part {
                only: "item.seq IN temp.dead",
                ..BY_AGE
            },
            Part {
                only: "item.seq NOT IN temp.dead",
                ..BY_AGE
            },
        ],
        SortOrder::Oldest => vec![BY_AGE],
        SortOrder::Newest => vec![Part {
            order: "item.seq DESC",
            after: "item.seq < :seq",
            ..BY_AGE
        }],
        SortOrder::NextAttempt => vec![
            Part {
                only: "item.due IS NOT NULL",
                key: "item.due",
                order: "item.due, item.seq",
                after: "(item.due, item.seq) > (:key, :seq)",
            },
            Part {
                only: "item.seq IN temp.unscheduled",
                ..BY_AGE
            },
        ],
        SortOrder::MostAttempts => vec![Part {
            only: "1",
            key: "item.attempts",
            order: "item.attempts DESC, item.seq",
            after: "(-item.attempts, item.seq) > (-:key, :seq)",
        }],
    }
}

/// Tables that live as long as the connection: unscheduled items; items with a dead target or set
/// aside; and items on hold or reserved. Their indexes are short, and so are the tables. And the
/// queue IDs of messages: these stand in the messages' table, which is half a gigabyte for 100,000
/// messages, and never change. So each is read once.
const TEMPORARY: &str = "PRAGMA temp_store = MEMORY; \
     CREATE TEMP TABLE unscheduled (seq INTEGER PRIMARY KEY); \
     CREATE TEMP TABLE dead (seq INTEGER PRIMARY KEY); \
     CREATE TEMP TABLE blocked (seq INTEGER PRIMARY KEY); \
     CREATE TEMP TABLE name (message INTEGER PRIMARY KEY, queue_id TEXT NOT NULL);";

const FILL: &str = "DELETE FROM temp.unscheduled; DELETE FROM temp.dead; DELETE FROM temp.blocked; \
     INSERT INTO temp.blocked SELECT seq FROM item WHERE on_hold UNION SELECT seq FROM item WHERE reserved; \
     INSERT INTO temp.dead SELECT item FROM target WHERE state = 'dead' \
         UNION SELECT seq FROM item WHERE set_aside IS NOT NULL; \
     INSERT INTO temp.unscheduled SELECT seq FROM item WHERE due IS NULL \
         AND seq IN (SELECT seq FROM temp.dead UNION SELECT seq FROM temp.blocked);";

/// A connection for operators.
pub(super) struct Browser {
    connection: Connection,
    /// Version of the database that the temporary tables were filled from, with its counts.
    cached: Option<(i64, QueueCounts)>,
}

impl Browser {
    /// Takes a connection for itself.
    pub(super) fn new(connection: Connection) -> rusqlite::Result<Browser> {
        connection.execute_batch(TEMPORARY)?;
        Ok(Browser {
            connection,
            cached: None,
        })
    }

    /// Returns a page, read in one transaction. Must not be called again after an error.
    pub(super) fn browse(&mut self, request: &BrowseRequest) -> rusqlite::Result<QueuePage> {
        let transaction = self.connection.unchecked_transaction()?;
        // Changes with each commit of another connection; this one writes only temporary tables.
        let version = transaction.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        let counts = match self.cached {
            Some((cached, counts)) if cached == version => counts,
            _ => {
                transaction.execute_batch(FILL)?;
                let counts = count_items(&transaction)?;
                read_queue_ids(&transaction, &counts)?;
                counts
            }
        };
        let (items, next) = match request.limit {
            0 => Default::default(),
            _ => find(&transaction, request)?,
        };
        transaction.commit()?;
        self.cached = Some((version, counts));
        Ok(QueuePage {
            items,
            next,
            counts,
        })
    }
}

fn count_items(connection: &Connection) -> rusqlite::Result<QueueCounts> {
    let count = |select: &str| -> rusqlite::Result<u64> {
        let mut select = connection.prepare_cached(select)?;
        select.query_row([], |row| unsigned(row, 0))
    };
    let oldest = connection
        .prepare_cached(
            "SELECT received FROM message WHERE id = (SELECT message FROM item ORDER BY seq LIMIT 1)",
        )?
        .query_row([], |row| time(row, 0))
        .optional()?;
    Ok(QueueCounts {
        items: count("SELECT count(*) FROM item")?,
        dead: count("SELECT count(*) FROM temp.dead")?,
        waiting: count("SELECT count(*) FROM item INDEXED BY item_due WHERE due IS NOT NULL")?,
        blocked: count("SELECT count(*) FROM temp.blocked")?,
        on_hold: count("SELECT count(*) FROM item WHERE on_hold")?,
        oldest,
    })
}

/// Reads the queue IDs of messages added since the last time; message numbers are not reused.
fn read_queue_ids(connection: &Connection, counts: &QueueCounts) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO temp.name SELECT id, queue_id FROM message \
             WHERE id > (SELECT ifnull(max(message), 0) FROM temp.name)",
        )?
        .execute([])?;
    let known = connection
        .prepare_cached("SELECT count(*) FROM temp.name")?
        .query_row([], |row| unsigned(row, 0))?;
    // Those of removed messages do no harm unless they become many.
    if known > 2 * counts.items + 1000 {
        connection
            .prepare_cached(
                "DELETE FROM temp.name WHERE message NOT IN (SELECT message FROM item)",
            )?
            .execute([])?;
    }
    Ok(())
}

fn find(
    connection: &Connection,
    request: &BrowseRequest,
) -> rusqlite::Result<(Vec<QueueEntry>, Option<PageCursor>)> {
    let (filter, texts) = conditions(request);
    // One more than is shown, to see whether there is another page.
    let enough = request.limit + 1;
    let mut found: Vec<PageCursor> = Vec::new();
    let first = request.after.map_or(0, |cursor| cursor.part);
    for (number, part) in parts(request.order).iter().enumerate().skip(first) {
        let after = request.after.filter(|cursor| cursor.part == number);
        found.extend(find_in_part(
            connection,
            (number, part),
            after,
            (&filter, &texts),
            enough - found.len(),
        )?);
        if found.len() == enough {
            break;
        }
    }
    let has_more = found.len() > request.limit;
    found.truncate(request.limit);
    let next = found.last().copied().filter(|_| has_more);
    let entries = (found.iter()).map(|cursor| queue::entry(connection, cursor.seq));
    Ok((readable(entries.filter_map(Result::transpose))?, next))
}

/// The conditions of a request in SQL, with the values of their parameters.
fn conditions(request: &BrowseRequest) -> (String, Vec<String>) {
    let mut filter = String::from(match request.state {
        StateFilter::Any => "1",
        StateFilter::Dead => "item.seq IN temp.dead",
        StateFilter::Waiting => "item.due IS NOT NULL",
        StateFilter::Blocked => "item.seq IN temp.blocked",
    });
    let mut texts = Vec::new();
    if let Some(direction) = request.direction {
        filter += " AND item.direction = ?";
        texts.push(direction.name().to_owned());
    }
    match &request.with {
        Some(SearchTerm::IdOrAddress(text)) => {
            filter += " AND (item.id IN (SELECT id FROM item WHERE id >= ? AND id < ?) \
                       OR item.seq IN (SELECT item FROM target WHERE address LIKE ? ESCAPE '\\'))";
            // IDs are lowercase ASCII letters and digits.
            let id = text.to_ascii_lowercase();
            texts.extend([id.clone(), id + "~", escape_like(text) + "%"]);
        }
        Some(SearchTerm::QueueId(text)) => {
            filter += " AND item.message IN (SELECT message FROM temp.name WHERE queue_id LIKE ? ESCAPE '\\')";
            texts.push(escape_like(text) + "%");
        }
        Some(SearchTerm::Subject(text)) => {
            filter += " AND item.subject LIKE ? ESCAPE '\\'";
            texts.push(format!("%{}%", escape_like(text)));
        }
        None => {}
    }
    (filter, texts)
}

fn find_in_part(
    connection: &Connection,
    (number, part): (usize, &Part),
    after: Option<PageCursor>,
    (filter, texts): (&str, &[String]),
    limit: usize,
) -> rusqlite::Result<Vec<PageCursor>> {
    let Part {
        only, key, order, ..
    } = part;
    let after = match after {
        Some(PageCursor { key, seq, .. }) => (part.after)
            .replace(":key", &key.to_string())
            .replace(":seq", &seq.to_string()),
        None => "1".to_owned(),
    };
    let mut select = connection.prepare(&format!(
        "SELECT {key}, item.seq FROM item WHERE {only} AND {filter} AND {after} ORDER BY {order} LIMIT {limit}"
    ))?;
    let texts = texts.iter().cloned().map(Value::Text);
    let found = select.query_map(params_from_iter(texts), |row| {
        Ok(PageCursor {
            part: number,
            key: row.get(0)?,
            seq: row.get(1)?,
        })
    })?;
    found.collect()
}

/// Escapes a text for LIKE, which then takes it literally.
fn escape_like(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}
