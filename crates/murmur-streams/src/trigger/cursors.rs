//! Where this process left the shards.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::source::Cursor;

/// Where the shards were left with all read records done, for later runs of the same trigger.
///
/// The place of a shard that was begun at LATEST and had no record since is stored only here.
#[derive(Debug, Default)]
pub(crate) struct Cursors(Mutex<HashMap<Arc<str>, (u64, Cursor)>>);

impl Cursors {
    /// Records a shard's place, and the version of its row.
    pub(crate) fn note(&self, shard: &Arc<str>, place: Option<(u64, Cursor)>) {
        let mut places = self.places();
        match place {
            Some(place) => places.insert(Arc::clone(shard), place),
            None => places.remove(shard),
        };
    }

    /// The place of a shard, unless its row was saved again since then.
    pub(crate) fn at(&self, shard: &str, version: u64) -> Option<Cursor> {
        let places = self.places();
        let (noted, cursor) = places.get(shard)?;
        (*noted == version).then(|| cursor.clone())
    }

    /// Drops the places of shards that are gone.
    pub(crate) fn retain(&self, is_listed: impl Fn(&str) -> bool) {
        self.places().retain(|id, _| is_listed(id));
    }

    fn places(&self) -> MutexGuard<'_, HashMap<Arc<str>, (u64, Cursor)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
