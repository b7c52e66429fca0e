//! Decoders of rows: values of the database to typed values.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use rusqlite::Row;
use rusqlite::types::Type;
use tracing::error;

use super::damage;
use crate::journal::{Dsn, Item, ItemId, Kind};
use crate::mail::{Address, BodyKind};

/// Columns of `item` that [`item`] decodes, in its order.
pub(super) const ITEM_COLUMNS: &str = "item.id, kind, direction, sender, ndr, message_id, envelope_id, subject, reasons, \
                                       body, smtputf8, prefix, suffix, item.dsn";

/// Decodes an item, without its targets.
pub(super) fn item(row: &Row<'_>) -> rusqlite::Result<Item> {
    Ok(Item {
        id: item_id(row, 0)?,
        kind: kind(row, 1)?,
        direction: parsed(row, 2, |text| text.parse().ok())?,
        sender: optional_address(row, 3)?,
        ndr: optional_address(row, 4)?,
        targets: Vec::new(),
        message_id: row.get(5)?,
        envelope_id: row.get(6)?,
        subject: row.get(7)?,
        reasons: lines(row, 8)?,
        body: parsed(row, 9, |text| {
            let kinds = [BodyKind::SevenBit, BodyKind::EightBit, BodyKind::Binary];
            kinds.into_iter().find(|kind| kind.encoding() == text)
        })?,
        smtputf8: row.get(10)?,
        prefix: Bytes::from(row.get::<_, Vec<u8>>(11)?),
        suffix: Bytes::from(row.get::<_, Vec<u8>>(12)?),
        dsn: Dsn {
            sender: words(row, 13)?,
            recipients: Vec::new(),
        },
    })
}

pub(super) fn item_id(row: &Row<'_>, column: usize) -> rusqlite::Result<ItemId> {
    parsed(row, column, ItemId::parse)
}

pub(super) fn kind(row: &Row<'_>, column: usize) -> rusqlite::Result<Kind> {
    parsed(row, column, |text| {
        Kind::ALL.into_iter().find(|kind| kind.name() == text)
    })
}

pub(super) fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Address> {
    parsed(row, column, |text| Address::parse(text).ok())
}

pub(super) fn optional_address(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<Address>> {
    match row.get_ref(column)?.data_type() {
        Type::Null => Ok(None),
        _ => address(row, column).map(Some),
    }
}

/// Decodes a list whose parts contain no line breaks.
pub(super) fn lines(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let text: String = row.get(column)?;
    Ok(text.lines().map(str::to_owned).collect())
}

/// Decodes ESMTP parameters, which contain no spaces.
pub(super) fn words(row: &Row<'_>, column: usize) -> rusqlite::Result<Vec<String>> {
    let text = row.get_ref(column)?.as_str()?;
    Ok(text.split_ascii_whitespace().map(str::to_owned).collect())
}

pub(super) fn time(row: &Row<'_>, column: usize) -> rusqlite::Result<SystemTime> {
    row.get(column).map(from_millis)
}

pub(super) fn optional_time(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<SystemTime>> {
    Ok(row.get::<_, Option<i64>>(column)?.map(from_millis))
}

/// SQLite's integers are signed, counts are not.
pub(super) fn unsigned(row: &Row<'_>, column: usize) -> rusqlite::Result<u64> {
    row.get::<_, i64>(column).map(i64::unsigned_abs)
}

pub(super) fn parsed<T>(
    row: &Row<'_>,
    column: usize,
    parse: impl Fn(&str) -> Option<T>,
) -> rusqlite::Result<T> {
    let text: String = row.get(column)?;
    parse(&text).ok_or_else(|| {
        damaged(
            column,
            &format!("invalid value \"{}\"", text.escape_debug()),
        )
    })
}

/// An error that says that a row is damaged.
pub(super) fn damaged(column: usize, description: &str) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, Type::Text, description.into())
}

/// Collects rows but for damaged ones: those must not keep the others from being read.
pub(super) fn readable<T>(
    rows: impl Iterator<Item = rusqlite::Result<T>>,
) -> rusqlite::Result<Vec<T>> {
    rows.filter(|row| match row {
        Err(cause) if damage::is_damaged_row(cause) => {
            error!("skipping a damaged item in the spool: {cause}");
            false
        }
        _ => true,
    })
    .collect()
}

/// A limit as SQL takes it.
pub(super) fn sql_limit(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Milliseconds since 1970.
pub(super) fn millis(at: SystemTime) -> i64 {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn from_millis(millis: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(millis).unwrap_or(0))
}
