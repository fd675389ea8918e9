use super::counts::Counts;
use super::segments::Save;

/// Whether the source is known to be the right one, so that rejected rows may be passed over.
///
/// As long as every row was rejected, no checkpoint is saved, because the right decoder may still
/// count these rows.
pub(crate) enum Proof {
    /// A row was accepted, or the source is accepted as it is.
    Given,
    /// No row was accepted yet. Holds the checkpoints that wait for one.
    Waiting(Vec<Save>),
}

impl Proof {
    /// Whether any of these rows was accepted.
    pub(crate) fn is_in(counts: &Counts) -> bool {
        counts.rows > counts.rejected
    }

    /// Whether a checkpoint waits for the proof.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Self::Waiting(saves) if !saves.is_empty())
    }
}

/// After this many rows without an accepted one the source is taken for the wrong one.
pub(crate) const ENOUGH: u64 = 1000;
