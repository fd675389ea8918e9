use super::counts::Counts;
use super::segments::Save;

/// Whether the source is what the pipelines read, so that what it has may be passed over.
///
/// As long as every row was rejected nobody knows, and no checkpoint is saved: what the right
/// decoder would count must not be done with.
pub(crate) enum Proof {
    /// It is, or is to be taken as it is.
    Given,
    /// No row was accepted yet; the checkpoints that wait for one.
    Waiting(Vec<Save>),
}

impl Proof {
    /// Whether a row that is among these was accepted.
    pub(crate) fn is_in(counts: &Counts) -> bool {
        counts.rows > counts.rejected
    }

    /// Whether a checkpoint waits for it.
    pub(crate) fn waits(&self) -> bool {
        matches!(self, Self::Waiting(saves) if !saves.is_empty())
    }
}

/// From how many rows on a source of which none was accepted is the wrong one.
pub(crate) const ENOUGH: u64 = 1000;
