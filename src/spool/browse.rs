//! The queue a page at a time, for operators: filtered, sorted, and found again behind the last
//! item shown.
//!
//! Reads by a connection of its own, so that no delivery waits for a page. A page is found by the
//! place of the last one's end and not by a number of items to skip: what is delivered meanwhile
//! shifts nothing, and the last page costs what the first does. The one whole pass over the items'
//! rows is that for the most attempts or a subject.

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension, params_from_iter};

use super::database::{optional_time, readable};
use super::queue::{QueueEntry, by_number};
use crate::policy::Direction;

/// Which items, and in which order.
#[derive(Debug, Clone, Default)]
pub struct BrowseRequest {
    /// In which state.
    pub state: StateFilter,
    /// Of which direction; `None` for all.
    pub direction: Option<Direction>,
    /// SearchTerm what; `None` for all.
    pub with: Option<SearchTerm>,
    /// In which order.
    pub order: SortOrder,
    /// Behind this place; `None` for the first page.
    pub after: Option<PageCursor>,
    /// At most this many.
    pub limit: usize,
}

/// The state of an item as a whole.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum StateFilter {
    /// Any.
    #[default]
    Any,
    /// A dead target, or set aside.
    Dead,
    /// Tried by itself, now or later.
    Waiting,
    /// Not tried before something is decided: about its message, or by an operator.
    Blocked,
}

/// What an item is looked for by. Letters of ASCII count in either case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SearchTerm {
    /// Its id, or the address of one of its targets, begins with this.
    IdOrAddress(String),
    /// The MTA's name of its message begins with this.
    QueueId(String),
    /// Its subject has this in it.
    Subject(String),
}

/// The order of a list.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SortOrder {
    /// Dead letters, then the others, the oldest first.
    #[default]
    DeadFirst,
    /// By age.
    Oldest,
    /// By age, the other way.
    Newest,
    /// By the next attempt; last those without one.
    NextAttempt,
    /// By attempts, the most first.
    MostAttempts,
}

/// The end of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageCursor {
    /// Which of the order's parts it is in.
    part: usize,
    /// What the part is sorted by.
    key: i64,
    /// The item's number.
    seq: i64,
}

/// A page of the queue.
#[derive(Debug, Clone, Default)]
pub struct QueuePage {
    /// Its items.
    pub items: Vec<QueueEntry>,
    /// Where the next page begins; `None` where this is the last.
    pub next: Option<PageCursor>,
    /// How many items there are in each state.
    pub census: QueueCounts,
}

/// How many items there are.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct QueueCounts {
    /// In all.
    pub items: u64,
    /// SearchTerm a dead target, or set aside.
    pub dead: u64,
    /// That are tried by themselves.
    pub waiting: u64,
    /// That are not tried before something is decided.
    pub blocked: u64,
    /// Of these, what an operator holds.
    pub on_hold: u64,
    /// When the oldest message with an item came.
    pub oldest: Option<std::time::SystemTime>,
}

impl PageCursor {
    /// The place that a text names; see its `Display`.
    pub fn parse(text: &str) -> Option<PageCursor> {
        let mut numbers = text.splitn(3, '.');
        Some(PageCursor {
            part: numbers.next()?.parse().ok()?,
            key: numbers.next()?.parse().ok()?,
            seq: numbers.next()?.parse().ok()?,
        })
    }
}

impl std::fmt::Display for PageCursor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.part, self.key, self.seq)
    }
}

/// One part of an order: items of one kind, sorted by one thing.
struct Part {
    only: &'static str,
    key: &'static str,
    order: &'static str,
    /// What comes behind `:key` and `:seq`.
    behind: &'static str,
}

const BY_AGE: Part = Part {
    only: "1",
    key: "item.seq",
    order: "item.seq",
    behind: "item.seq > :seq",
};

impl SortOrder {
    fn parts(self) -> Vec<Part> {
        match self {
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
                behind: "item.seq < :seq",
                ..BY_AGE
            }],
            SortOrder::NextAttempt => vec![
                Part {
                    only: "item.due IS NOT NULL",
                    key: "item.due",
                    order: "item.due, item.seq",
                    behind: "(item.due, item.seq) > (:key, :seq)",
                },
                Part {
                    only: "item.seq IN temp.resting",
                    ..BY_AGE
                },
            ],
            SortOrder::MostAttempts => vec![Part {
                only: "1",
                key: "item.attempts",
                order: "item.attempts DESC, item.seq",
                behind: "(-item.attempts, item.seq) > (-:key, :seq)",
            }],
        }
    }
}

/// Tables that live as long as the connection and hold what is told from indexes: items that nobody
/// tries by themselves, those of them that are dead or set aside (and the others with a dead
/// target), and those that are held. And the MTA's names of messages: these stand between the
/// messages themselves, whose table is half a gigabyte where 100,000 wait, and never change. So
/// each is read once.
const TEMPORARY: &str = "PRAGMA temp_store = MEMORY; \
     CREATE TEMP TABLE resting (seq INTEGER PRIMARY KEY); \
     CREATE TEMP TABLE dead (seq INTEGER PRIMARY KEY); \
     CREATE TEMP TABLE halted (seq INTEGER PRIMARY KEY); \
     CREATE TEMP TABLE name (message INTEGER PRIMARY KEY, queue_id TEXT NOT NULL);";

/// A connection for those who look.
pub(super) struct Browser {
    connection: Connection,
    /// What its temporary tables hold, and of which version of the database.
    seen: Option<(i64, QueueCounts)>,
}

impl Browser {
    /// SearchTerm a connection of its own.
    pub(super) fn new(connection: Connection) -> rusqlite::Result<Browser> {
        connection.execute_batch(TEMPORARY)?;
        Ok(Browser {
            connection,
            seen: None,
        })
    }

    /// A page, of one moment. One that failed must not be asked again.
    pub(super) fn browse(&mut self, wanted: &BrowseRequest) -> rusqlite::Result<QueuePage> {
        let moment = self.connection.unchecked_transaction()?;
        // Another one after each commit of another connection; this one commits nothing but
        // temporary tables.
        let version = moment.query_row("PRAGMA data_version", [], |row| row.get(0))?;
        let census = match self.seen {
            Some((seen, census)) if seen == version => census,
            _ => {
                let census = take_census(&moment)?;
                learn_names(&moment, &census)?;
                census
            }
        };
        let (items, next) = match wanted.limit {
            0 => Default::default(),
            _ => find(&moment, wanted)?,
        };
        moment.commit()?;
        self.seen = Some((version, census));
        Ok(QueuePage {
            items,
            next,
            census,
        })
    }
}

fn take_census(connection: &Connection) -> rusqlite::Result<QueueCounts> {
    // CROSS JOIN: SQLite keeps the order then, and does not look through all items for the few that
    // are on hold.
    connection.execute_batch(
        "DELETE FROM temp.resting; DELETE FROM temp.dead; DELETE FROM temp.halted; \
         INSERT INTO temp.halted SELECT item FROM held UNION SELECT item FROM paused; \
         INSERT INTO temp.dead SELECT DISTINCT item FROM target WHERE state = 'dead'; \
         INSERT OR IGNORE INTO temp.dead SELECT item FROM paused CROSS JOIN item ON seq = paused.item WHERE aside IS NOT NULL; \
         INSERT INTO temp.resting SELECT seq FROM item WHERE due IS NULL \
         AND seq IN (SELECT seq FROM temp.dead UNION SELECT seq FROM temp.halted);",
    )?;
    let count = |select: &str| -> rusqlite::Result<u64> {
        let mut select = connection.prepare_cached(select)?;
        select.query_row([], |row| row.get::<_, i64>(0).map(i64::unsigned_abs))
    };
    let items = count("SELECT count(*) FROM item")?;
    let waiting = count("SELECT count(*) FROM item INDEXED BY item_due WHERE due IS NOT NULL")?;
    // No index knows what was set aside. It is rare, and looked for only where the sum says that
    // there is some.
    if waiting + count("SELECT count(*) FROM temp.resting")? < items {
        find_set_aside(connection)?;
    }
    let oldest = connection
        .prepare_cached(
            "SELECT received FROM message WHERE id = (SELECT message FROM item ORDER BY seq LIMIT 1)",
        )?
        .query_row([], |row| optional_time(row, 0))
        .optional()?;
    Ok(QueueCounts {
        items,
        dead: count("SELECT count(*) FROM temp.dead")?,
        waiting,
        blocked: count("SELECT count(*) FROM temp.halted")?,
        on_hold: count("SELECT count(*) FROM paused")?,
        oldest: oldest.flatten(),
    })
}

/// Told by what is in one index and not in the other: the rows themselves are kilobytes each.
fn find_set_aside(connection: &Connection) -> rusqlite::Result<()> {
    let all = numbers(connection, "SELECT seq FROM item INDEXED BY item_message")?;
    let waiting = numbers(
        connection,
        "SELECT seq FROM item INDEXED BY item_due WHERE due IS NOT NULL",
    )?;
    let mut insert = connection.prepare_cached("INSERT OR IGNORE INTO temp.resting VALUES (?1)")?;
    for seq in all.iter().filter(|seq| waiting.binary_search(seq).is_err()) {
        insert.execute([seq])?;
    }
    connection.execute_batch(
        "INSERT OR IGNORE INTO temp.dead SELECT seq FROM temp.resting WHERE seq NOT IN temp.halted;",
    )
}

/// Reads the names of messages that came since the last time; numbers of messages are not used
/// again.
fn learn_names(connection: &Connection, census: &QueueCounts) -> rusqlite::Result<()> {
    connection
        .prepare_cached(
            "INSERT INTO temp.name SELECT id, queue_id FROM message \
             WHERE id > (SELECT ifnull(max(message), 0) FROM temp.name)",
        )?
        .execute([])?;
    let known: i64 = connection
        .prepare_cached("SELECT count(*) FROM temp.name")?
        .query_row([], |row| row.get(0))?;
    // Those of messages that are gone are in nobody's way, unless they become many.
    if known.unsigned_abs() > 2 * census.items + 1000 {
        connection
            .prepare_cached(
                "DELETE FROM temp.name WHERE message NOT IN (SELECT message FROM item)",
            )?
            .execute([])?;
    }
    Ok(())
}

/// Sorted.
fn numbers(connection: &Connection, select: &str) -> rusqlite::Result<Vec<i64>> {
    let mut select = connection.prepare_cached(select)?;
    let found = select.query_map([], |row| row.get(0))?;
    let mut found: Vec<i64> = found.collect::<rusqlite::Result<_>>()?;
    found.sort_unstable();
    Ok(found)
}

fn find(
    connection: &Connection,
    wanted: &BrowseRequest,
) -> rusqlite::Result<(Vec<QueueEntry>, Option<PageCursor>)> {
    let mut filter = String::from(match wanted.state {
        StateFilter::Any => "1",
        StateFilter::Dead => "item.seq IN temp.dead",
        StateFilter::Waiting => "item.due IS NOT NULL",
        StateFilter::Blocked => "item.seq IN temp.halted",
    });
    let mut texts = Vec::new();
    if let Some(direction) = wanted.direction {
        filter += " AND item.direction = ?";
        texts.push(direction.name().to_owned());
    }
    match &wanted.with {
        Some(SearchTerm::IdOrAddress(text)) => {
            filter += " AND (item.id IN (SELECT id FROM item WHERE id >= ? AND id < ?) \
                       OR item.seq IN (SELECT item FROM target WHERE address LIKE ? ESCAPE '\\'))";
            // Ids are letters of ASCII and digits, in lower case.
            let id = text.to_ascii_lowercase();
            texts.extend([id.clone(), id + "~", like(text) + "%"]);
        }
        Some(SearchTerm::QueueId(text)) => {
            filter += " AND item.message IN (SELECT message FROM temp.name WHERE queue_id LIKE ? ESCAPE '\\')";
            texts.push(like(text) + "%");
        }
        Some(SearchTerm::Subject(text)) => {
            filter += " AND item.subject LIKE ? ESCAPE '\\'";
            texts.push(format!("%{}%", like(text)));
        }
        None => {}
    }
    // One more than is shown, to see whether there is another page.
    let enough = wanted.limit + 1;
    let mut found: Vec<PageCursor> = Vec::new();
    let begin = wanted.after.map_or(0, |cursor| cursor.part);
    for (at, part) in wanted.order.parts().iter().enumerate().skip(begin) {
        let after = wanted.after.filter(|cursor| cursor.part == at);
        found.extend(of_part(
            connection,
            (at, part),
            after,
            (&filter, &texts),
            enough - found.len(),
        )?);
        if found.len() == enough {
            break;
        }
    }
    let more = found.len() > wanted.limit;
    found.truncate(wanted.limit);
    let next = found.last().copied().filter(|_| more);
    let rows = found.iter().map(|cursor| by_number(connection, cursor.seq));
    Ok((readable(rows.filter_map(Result::transpose))?, next))
}

fn of_part(
    connection: &Connection,
    (at, part): (usize, &Part),
    after: Option<PageCursor>,
    (filter, texts): (&str, &[String]),
    limit: usize,
) -> rusqlite::Result<Vec<PageCursor>> {
    let Part {
        only,
        key,
        order,
        behind,
    } = part;
    let behind = match after {
        Some(PageCursor { key, seq, .. }) => behind
            .replace(":key", &key.to_string())
            .replace(":seq", &seq.to_string()),
        None => "1".to_owned(),
    };
    let mut select = connection.prepare(&format!(
        "SELECT {key}, item.seq FROM item WHERE {only} AND {filter} AND {behind} ORDER BY {order} LIMIT {limit}"
    ))?;
    let texts = texts.iter().cloned().map(Value::Text);
    let found = select.query_map(params_from_iter(texts), |row| {
        Ok(PageCursor {
            part: at,
            key: row.get(0)?,
            seq: row.get(1)?,
        })
    })?;
    found.collect()
}

/// A text as LIKE takes it for itself.
fn like(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '%' | '_' | '\\') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use bytes::Bytes;

    use super::super::tests::{item, operator};
    use super::super::{Action, DeliveryOutcome, DeliveryResult, Settings, Spool, Submission};
    use super::*;

    async fn in_state(spool: &Spool, state: StateFilter) -> Vec<String> {
        let wanted = BrowseRequest {
            state,
            limit: 100,
            ..BrowseRequest::default()
        };
        let browsed = spool.browse(wanted).await.expect("read");
        let items = browsed.items.into_iter();
        items.map(|item| item.id.to_string()).collect()
    }

    #[tokio::test]
    async fn each_item_is_in_the_states_that_its_row_says() {
        let dir = tempfile::tempdir().expect("a directory");
        let spool = Spool::open(&Settings::new(dir.path())).expect("opened");
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let submission = |n| Submission {
            original: Bytes::from_static(b"x").into(),
            items: vec![item(n, &["a@c.test", "b@c.test"])],
        };
        for n in 0..6 {
            let committed = spool.commit("Q", now, vec![submission(n)]).await;
            committed.expect("committed");
        }
        let held = spool
            .reserve("Q", now, vec![submission(6)])
            .await
            .expect("held");
        let name = |n: usize| item(n, &[]).id;
        let outcome = |first: DeliveryOutcome, second: DeliveryOutcome| DeliveryResult {
            outcomes: vec![
                (item(0, &["a@c.test"]).targets[0].clone(), first),
                (item(0, &["b@c.test"]).targets[0].clone(), second),
            ],
            next_attempt: now,
            ndr: None,
            ndr_limit: None,
            relay_reached: true,
        };
        let (dead, waiting) = (
            DeliveryOutcome::Dead("no".into()),
            DeliveryOutcome::Deferred("later".into()),
        );
        // 1 is dead, 2 is dead for one and waits for the other, 3 is dead and on hold, 4 is on
        // hold, 5 is set aside.
        for (n, first, second) in [(1, &dead, &dead), (2, &dead, &waiting), (3, &dead, &dead)] {
            let result = outcome(first.clone(), second.clone());
            spool.record(&name(n), result, now).await.expect("recorded");
        }
        for n in [3, 4] {
            assert!(
                spool
                    .operate(&operator(), Action::Hold, &name(n), now)
                    .await
                    .expect("written")
            );
        }
        let file = Connection::open(dir.path().join("spool/spool.db")).expect("opened");
        file.execute(
            "UPDATE item SET due = NULL, aside = 'damaged' WHERE id = ?1",
            [name(5).as_str()],
        )
        .expect("as a damaged original leaves it");
        let names =
            |all: &[usize]| -> Vec<String> { all.iter().map(|n| name(*n).to_string()).collect() };
        assert_eq!(
            in_state(&spool, StateFilter::Dead).await,
            names(&[1, 2, 3, 5])
        );
        assert_eq!(in_state(&spool, StateFilter::Waiting).await, names(&[2, 0]));
        assert_eq!(
            in_state(&spool, StateFilter::Blocked).await,
            names(&[3, 4, 6])
        );
        assert_eq!(
            in_state(&spool, StateFilter::Any).await,
            names(&[1, 2, 3, 5, 0, 4, 6])
        );
        let census = spool
            .browse(BrowseRequest::default())
            .await
            .expect("read")
            .census;
        assert_eq!(
            (census.items, census.dead, census.waiting, census.blocked),
            (7, 4, 2, 3)
        );
        assert_eq!(census.on_hold, 2);
        assert_eq!(census.oldest, Some(now));
        held.cancel().await.expect("written");
        assert_eq!(in_state(&spool, StateFilter::Blocked).await, names(&[3, 4]));
    }

    #[test]
    fn a_cursor_is_read_back_and_nothing_else_is_one() {
        let cursor = PageCursor {
            part: 1,
            key: -7,
            seq: i64::MAX,
        };
        assert_eq!(PageCursor::parse(&cursor.to_string()), Some(cursor));
        for text in ["", "1.2", "1.2.3.4", "-1.2.3", "1.2.x", "1.2.3 OR 1"] {
            assert_eq!(PageCursor::parse(text), None, "{text}");
        }
    }
}
