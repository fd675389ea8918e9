//! A record on its way through a pipeline, and its outcome there.

use murmur_state::store::Outcome;
use murmur_state::{PipelineName, Recorder, StoreError};

use crate::record::{Record, Side};

/// A record as a pipeline sees it: decoded, valid, and the only one with its event id.
pub(crate) struct Entry<'a, T> {
    /// The index of its record in the batch.
    pub(crate) place: usize,
    pub(crate) record: &'a Record,
    pub(crate) new: Option<T>,
    pub(crate) old: Option<T>,
}

impl<T> Entry<'_, T> {
    pub(crate) fn image(&mut self, side: Side) -> &mut Option<T> {
        match side {
            Side::New => &mut self.new,
            Side::Old => &mut self.old,
        }
    }
}

/// The outcome of one record in one pipeline. Small, because there is one per record.
#[derive(Debug)]
pub(crate) enum Verdict {
    Applied,
    Duplicate,
    Superseded,
    /// It adds nothing.
    Skipped,
    /// Time to Live removed its item, which keeps counting.
    Kept,
    /// All its additions are in windows whose retention has ended.
    Expired,
    Blocked,
    Failed(Box<StoreError>),
}

impl From<Outcome> for Verdict {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Applied => Self::Applied,
            Outcome::Duplicate => Self::Duplicate,
            Outcome::Superseded => Self::Superseded,
            Outcome::Blocked => Self::Blocked,
            Outcome::Failed(error) => Self::Failed(Box::new(error)),
        }
    }
}

/// The number of records of a batch per verdict, so that each counter is updated once.
#[derive(Default)]
pub(crate) struct Tally {
    applied: u64,
    duplicate: u64,
    superseded: u64,
    skipped: u64,
    kept: u64,
    blocked: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, verdict: &Verdict) {
        match verdict {
            Verdict::Applied => self.applied += 1,
            Verdict::Duplicate => self.duplicate += 1,
            Verdict::Superseded => self.superseded += 1,
            Verdict::Skipped => self.skipped += 1,
            Verdict::Kept => self.kept += 1,
            Verdict::Blocked => self.blocked += 1,
            // Counted per image where they are dropped, and where they are handed over.
            Verdict::Expired | Verdict::Failed(_) => {}
        }
    }

    pub(crate) fn record(self, pipeline: &PipelineName, recorder: &dyn Recorder) {
        let Self {
            applied,
            duplicate,
            superseded,
            skipped,
            kept,
            blocked,
        } = self;
        for (suffix, by) in [
            ("", applied),
            (":dedup_skip", duplicate),
            (":superseded", superseded),
            (":skip", skipped),
            (":ttl_kept", kept),
            (":blocked", blocked),
        ] {
            if by > 0 {
                recorder.count(&format!("{pipeline}{suffix}"), by);
            }
        }
    }
}

/// A record that can never count in a pipeline, taken by the callback.
pub(crate) struct PassedOver<'a, T> {
    pub(crate) entry: &'a Entry<'a, T>,
    /// Whether the reason lies in its images alone, so that it is the same wherever they occur. An
    /// overflow also depends on other records.
    pub(crate) by_its_images: bool,
}
