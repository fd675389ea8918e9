//! The writer: changes the table while it is scanned, and after that.

use std::collections::HashMap;
use std::fmt;

use anyhow::Result;
use futures::stream::{self, StreamExt};
use murmur_state::Grouped;
use tokio::sync::watch;

use super::recount::Log;
use super::rows::{Measure, Row, Rows};
use super::server::Tables;

const WRITERS: usize = 8;

/// The progress of the scan.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scan {
    Before,
    UnderWay,
    Over,
}

/// How many changes of each kind were made.
#[derive(Default)]
pub(super) struct Changes {
    inserts: usize,
    changes: usize,
    moves: usize,
    removals: usize,
}

impl Changes {
    pub(super) fn total(&self) -> usize {
        let Self {
            inserts,
            changes,
            moves,
            removals,
        } = self;
        inserts + changes + moves + removals
    }
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            inserts,
            changes,
            moves,
            removals,
        } = self;
        write!(
            f,
            "{} inserts, {} changes, {} moves to another total, {} removals",
            Grouped(*inserts as u64),
            Grouped(*changes as u64),
            Grouped(*moves as u64),
            Grouped(*removals as u64)
        )
    }
}

/// The changes that the writer made during the scan and after it.
#[derive(Default)]
pub(super) struct Written {
    pub(super) during: Changes,
    pub(super) after: Changes,
}

/// Makes all live writes, wave after wave, and logs them. The last wave starts after the scan, all
/// others when the scan starts.
pub(super) async fn write(
    tables: &Tables,
    rows: &Rows,
    mut scan: watch::Receiver<Scan>,
    log: &mut Log,
) -> Result<Written> {
    let measure = &rows.measure;
    let mut known = HashMap::new();
    for row in &rows.at_rest {
        known.insert(row.id.as_str(), key(measure, row)?);
    }
    let mut written = Written::default();
    // The sender outlives the writer.
    let _ = scan.wait_for(|scan| *scan != Scan::Before).await;
    for (n, wave) in (1..).zip(&rows.live) {
        if n == rows.live.len() {
            let _ = scan.wait_for(|scan| *scan == Scan::Over).await;
        }
        let writes = wave.iter().map(|row| {
            let scan = scan.clone();
            async move {
                tables.write(row).await?;
                anyhow::Ok((row, *scan.borrow()))
            }
        });
        let writes: Vec<_> = writes.collect();
        let mut done = stream::iter(writes).buffer_unordered(WRITERS);
        while let Some(done) = done.next().await {
            let (row, scan) = done?;
            let changes = match scan {
                Scan::Over => &mut written.after,
                Scan::Before | Scan::UnderWay => &mut written.during,
            };
            let id = row.id.as_str();
            *match (&row.item, key(measure, row)?) {
                (None, _) => {
                    known.remove(id);
                    &mut changes.removals
                }
                (Some(_), key) => match known.insert(id, key.clone()) {
                    None => &mut changes.inserts,
                    Some(before) if before != key => &mut changes.moves,
                    Some(_) => &mut changes.changes,
                },
            } += 1;
        }
        drop(done);
        log.extend(wave, measure)?;
    }
    Ok(written)
}

/// The total that a row counts for.
fn key(measure: &Measure, row: &Row) -> Result<Option<String>> {
    match &row.item {
        Some(item) => measure.text(item, &measure.key),
        None => Ok(None),
    }
}
