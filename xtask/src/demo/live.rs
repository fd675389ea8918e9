//! The writer: what happens to the table while the handler follows.

use std::fmt;

use anyhow::Result;
use futures::stream::{self, StreamExt, TryStreamExt};

use super::recount::Log;
use super::rows::{Row, Rows};
use super::server::Tables;

const WRITERS: usize = 8;

/// How many changes of each kind were made.
#[derive(Default)]
pub(super) struct Changes {
    inserts: usize,
    changes: usize,
    removals: usize,
}

impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            inserts,
            changes,
            removals,
        } = self;
        write!(
            f,
            "{inserts} inserts, {changes} changes, {removals} removals"
        )
    }
}

/// Makes all live writes, wave after wave, and logs them.
pub(super) async fn write(tables: &Tables, rows: &Rows, log: &mut Log) -> Result<Changes> {
    let mut known: std::collections::HashSet<&str> =
        rows.at_rest.iter().map(|row| row.id.as_str()).collect();
    let mut changes = Changes::default();
    for wave in &rows.live {
        let writes: Vec<_> = wave.iter().map(|row| tables.write(row)).collect();
        stream::iter(writes)
            .buffer_unordered(WRITERS)
            .try_collect::<()>()
            .await?;
        log.extend(wave, &rows.measure)?;
        for Row { id, item } in wave {
            match item {
                None => {
                    known.remove(id.as_str());
                    changes.removals += 1;
                }
                Some(_) if known.insert(id) => changes.inserts += 1,
                Some(_) => changes.changes += 1,
            }
        }
    }
    Ok(changes)
}
