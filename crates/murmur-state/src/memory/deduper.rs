use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hashbrown::{HashMap, HashSet};

use crate::checkpoint::{Checkpoint, Checkpoints, Removed, Saved};
use crate::dedup::{Claim, Deduper, Owner};
use crate::error::StoreError;
use crate::time::{Clock, Deadline, SystemClock, Timestamp};

/// The default time for which a [`MemoryDeduper`] remembers a claim: twice a stream's 24 hours of
/// retention.
const REMEMBERED: Duration = Duration::from_secs(48 * 3600);

/// The marker table in memory: claims, markers of counted events, checkpoints. Clones share it.
///
/// Claims expire by its clock. A ledger uses the same clock to see which rows are past their `ttl`.
/// The markers of exactly-once stay until it is dropped. It answers at once, so it ignores
/// deadlines.
#[derive(Clone)]
pub struct MemoryDeduper {
    ttl: Duration,
    pub(super) clock: Arc<dyn Clock>,
    marked: Arc<Mutex<Marked>>,
}

#[derive(Default)]
pub(super) struct Marked {
    claims: HashMap<String, (Owner, Timestamp)>,
    pub(super) once: HashSet<String>,
    checkpoints: HashMap<String, Checkpoint>,
}

impl MemoryDeduper {
    /// An empty marker table that remembers claims for 48 hours of the machine's clock.
    pub fn new() -> Self {
        Self::with_ttl(REMEMBERED, SystemClock::shared())
    }

    /// An empty marker table that remembers claims for `ttl` by `clock`.
    pub fn with_ttl(ttl: Duration, clock: Arc<dyn Clock>) -> Self {
        Self {
            ttl,
            clock,
            marked: Arc::default(),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Marked> {
        self.marked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for MemoryDeduper {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for MemoryDeduper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let marked = self.lock();
        f.debug_struct("MemoryDeduper")
            .field("claims", &marked.claims.len())
            .field("once", &marked.once.len())
            .field("checkpoints", &marked.checkpoints.len())
            .finish_non_exhaustive()
    }
}

impl Deduper for MemoryDeduper {
    async fn claim(
        &self,
        id: &str,
        owner: &Owner,
        _deadline: Deadline,
    ) -> Result<Claim, StoreError> {
        let now = self.clock.now();
        let mut marked = self.lock();
        match marked.claims.get(id) {
            Some((holder, until)) if *until > now => Ok(if holder == owner {
                Claim::First
            } else {
                Claim::Duplicate
            }),
            _ => {
                marked
                    .claims
                    .insert(id.to_owned(), (owner.clone(), now.plus(self.ttl)));
                Ok(Claim::First)
            }
        }
    }

    async fn release(
        &self,
        id: &str,
        owner: &Owner,
        _deadline: Deadline,
    ) -> Result<(), StoreError> {
        let mut marked = self.lock();
        if marked
            .claims
            .get(id)
            .is_some_and(|(holder, _)| holder == owner)
        {
            marked.claims.remove(id);
        }
        Ok(())
    }
}

impl Checkpoints for MemoryDeduper {
    fn load<'a>(&'a self, name: &'a str) -> BoxFuture<'a, Result<Option<Checkpoint>, StoreError>> {
        Box::pin(async move { Ok(self.lock().checkpoints.get(name).cloned()) })
    }

    fn save<'a>(
        &'a self,
        name: &'a str,
        data: &'a str,
        over: Option<u64>,
    ) -> BoxFuture<'a, Result<Saved, StoreError>> {
        Box::pin(async move {
            let mut marked = self.lock();
            let known = marked.checkpoints.get(name);
            let next = Checkpoint {
                data: data.to_owned(),
                version: over.map_or(1, |over| over + 1),
            };
            if known == Some(&next) {
                return Ok(Saved::Version(next.version));
            }
            if known.map(|known| known.version) != over {
                return Ok(Saved::Conflict);
            }
            let version = next.version;
            marked.checkpoints.insert(name.to_owned(), next);
            Ok(Saved::Version(version))
        })
    }

    fn remove<'a>(
        &'a self,
        name: &'a str,
        over: u64,
    ) -> BoxFuture<'a, Result<Removed, StoreError>> {
        Box::pin(async move {
            let mut marked = self.lock();
            match marked.checkpoints.get(name) {
                Some(known) if known.version != over => Ok(Removed::Conflict),
                _ => {
                    marked.checkpoints.remove(name);
                    Ok(Removed::Gone)
                }
            }
        })
    }
}
