//! The progress of a run.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use murmur_state::{Clock, Recorder, Timestamp};

/// How old the information may be that everything is done.
const STALE: Duration = Duration::from_secs(10);

/// What one run did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Summary {
    /// Batches begun. A batch delivered again, whole or in parts, is not counted again.
    pub batches: u64,
    /// Records done: by the handler, passed over by the filter, or given up.
    pub records: u64,
    /// Of these, records that the filter kept from the handler.
    pub filtered: u64,
    /// Of these, records that were given up and taken by `on_failure`.
    pub given_up: u64,
    /// Deliveries of records that had been delivered before.
    pub retries: u64,
    /// Records that the handler reported as failed, counted each time.
    pub failures: u64,
    /// How often the handler returned an error.
    pub errors: u64,
    /// Batches cut in two because they failed.
    pub bisections: u64,
    /// How often records that had not been read were found to be gone.
    pub gaps: u64,
    /// Shards lost to another reader.
    pub leases_lost: u64,
    /// Shards given up to other readers, so that each has its share.
    pub leases_given: u64,
}

/// The progress of a run, for display.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct Status {
    /// What the run did so far; after its end, everything it did.
    pub summary: Summary,
    /// The shards it reads now, by id.
    pub shards: Vec<ShardStatus>,
    /// How many shards could be read but are neither read here nor, as far as seen, by another
    /// reader. This reader leaves them because it has its share, or as many as
    /// [`maximum_shards`](crate::TriggerBuilder::maximum_shards) allows.
    pub waiting: usize,
}

/// One shard that is read now.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ShardStatus {
    /// The shard's id.
    pub shard: String,
    /// How far it is behind the stream's end:
    ///
    /// - the age of the oldest record that is not done;
    /// - zero if everything that was there at the last read is done, or the time since that read if
    ///   it was 10 s ago or more;
    /// - `None` until the first read.
    ///
    /// Creation times are in whole seconds, so it may be up to a second too high.
    pub lag: Option<Duration>,
    /// Records read and not done.
    pub pending: usize,
    /// How often in succession its failing batches have failed; 0 if none fails.
    pub failures: u32,
}

/// Observes a trigger while it runs. Clones observe the same trigger.
#[derive(Clone)]
pub struct Monitor(Arc<Shared>);

struct Shared {
    clock: Arc<dyn Clock>,
    recorder: Arc<dyn Recorder>,
    name: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    summary: Summary,
    shards: BTreeMap<Arc<str>, ShardProgress>,
    waiting: usize,
}

/// What a shard's reader reports.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ShardProgress {
    pub(crate) behind: Behind,
    pub(crate) pending: usize,
    pub(crate) failures: u32,
}

#[derive(Debug, Clone, Copy, Default)]
pub(crate) enum Behind {
    #[default]
    Unknown,
    /// Everything that was there at this time is done, as far as an empty answer tells.
    Nothing { read_at: Timestamp, surely: bool },
    /// Everything created before this time is done.
    Since(Timestamp),
}

/// What is counted, each in a field of the summary and under a name.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tally {
    Batches,
    Records,
    Filtered,
    GivenUp,
    Retries,
    Failures,
    Errors,
    Bisections,
    Gaps,
    LeasesLost,
    LeasesGiven,
}

impl Monitor {
    pub(crate) fn new(name: String, clock: Arc<dyn Clock>, recorder: Arc<dyn Recorder>) -> Self {
        Self(Arc::new(Shared {
            clock,
            recorder,
            name,
            state: Mutex::default(),
        }))
    }

    /// The current progress of the run.
    pub fn status(&self) -> Status {
        let now = self.0.clock.now();
        let state = self.state();
        let shard = |(id, progress): (&Arc<str>, &ShardProgress)| ShardStatus {
            shard: id.to_string(),
            lag: progress.behind.lag(now),
            pending: progress.pending,
            failures: progress.failures,
        };
        Status {
            summary: state.summary,
            shards: state.shards.iter().map(shard).collect(),
            waiting: state.waiting,
        }
    }

    pub(crate) fn summary(&self) -> Summary {
        self.state().summary
    }

    /// Starts the counts of a new run.
    pub(crate) fn reset(&self) {
        *self.state() = State::default();
    }

    pub(crate) fn count(&self, what: Tally, by: u64) {
        if by == 0 {
            return;
        }
        let name = {
            let mut state = self.state();
            let summary = &mut state.summary;
            let (field, name) = match what {
                Tally::Batches => (&mut summary.batches, "batches"),
                Tally::Records => (&mut summary.records, "records"),
                Tally::Filtered => (&mut summary.filtered, "filtered"),
                Tally::GivenUp => (&mut summary.given_up, "given_up"),
                Tally::Retries => (&mut summary.retries, "retry"),
                Tally::Failures => (&mut summary.failures, "failed"),
                Tally::Errors => (&mut summary.errors, "errors"),
                Tally::Bisections => (&mut summary.bisections, "bisected"),
                Tally::Gaps => (&mut summary.gaps, "gap"),
                Tally::LeasesLost => (&mut summary.leases_lost, "lease_lost"),
                Tally::LeasesGiven => (&mut summary.leases_given, "lease_given"),
            };
            *field += by;
            name
        };
        self.0
            .recorder
            .count(&format!("{}:{name}", self.0.name), by);
    }

    pub(crate) fn shard(&self, id: &Arc<str>, progress: ShardProgress) {
        self.state().shards.insert(Arc::clone(id), progress);
    }

    pub(crate) fn waiting(&self, shards: usize) {
        self.state().waiting = shards;
    }

    /// How many shards are being read.
    pub(crate) fn shards(&self) -> usize {
        self.state().shards.len()
    }

    /// Whether the shard is being read, and so has a row.
    pub(crate) fn reads(&self, id: &str) -> bool {
        self.state().shards.contains_key(id)
    }

    pub(crate) fn left(&self, id: &str) {
        self.state().shards.remove(id);
    }

    /// Whether every shard that is read is certainly at most `most` behind.
    pub(crate) fn has_caught_up(&self, most: Duration) -> bool {
        let (now, state) = (self.0.clock.now(), self.state());
        let has = |shard: &ShardProgress| {
            let unsure = matches!(shard.behind, Behind::Nothing { surely: false, .. });
            !unsure && shard.behind.lag(now).is_some_and(|lag| lag <= most)
        };
        !state.shards.is_empty() && state.shards.values().all(has)
    }

    /// Records how far behind the slowest shard is.
    pub(crate) fn gauge_lag(&self) {
        let lags = self.status().shards.into_iter().map(|shard| shard.lag);
        if let Some(lag) = lags.flatten().max() {
            let millis = u64::try_from(lag.as_millis()).unwrap_or(u64::MAX);
            let name = format!("{}:lag_ms", self.0.name);
            self.0.recorder.gauge(&name, millis);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Behind {
    fn lag(self, now: Timestamp) -> Option<Duration> {
        match self {
            Self::Unknown => None,
            // Reads pause for up to that time. Without a newer read it is not known what is there
            // by now.
            Self::Nothing { read_at, .. } if now.since(read_at) < STALE => Some(Duration::ZERO),
            Self::Nothing { read_at, .. } => Some(now.since(read_at)),
            Self::Since(time) => Some(now.since(time)),
        }
    }
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("name", &self.0.name)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}
