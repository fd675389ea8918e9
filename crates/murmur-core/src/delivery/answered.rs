use murmur_state::StoreError;

use crate::verdict::Verdict;

/// The shares of a batch whose verdict is known before delivery, and the indexes of the others.
pub(super) struct Answered {
    pub(super) verdicts: Vec<Verdict>,
    open: Vec<usize>,
}

impl Answered {
    /// All verdicts, with `delivered` for those that were open.
    pub(super) fn with<V: Into<Verdict>>(mut self, delivered: Vec<V>) -> Vec<Verdict> {
        for (place, verdict) in self.open.into_iter().zip(delivered) {
            self.verdicts[place] = verdict.into();
        }
        self.verdicts
    }
}

/// Separates the shares that `deliverable` accepts from those that it refuses.
pub(super) fn part<S, E>(
    shares: Vec<S>,
    mut deliverable: impl FnMut(S) -> Result<E, StoreError>,
) -> (Answered, Vec<E>) {
    let mut answered = Answered {
        verdicts: Vec::with_capacity(shares.len()),
        open: Vec::with_capacity(shares.len()),
    };
    let mut entries = Vec::with_capacity(shares.len());
    for (place, share) in shares.into_iter().enumerate() {
        answered.verdicts.push(match deliverable(share) {
            Ok(entry) => {
                answered.open.push(place);
                entries.push(entry);
                Verdict::Applied
            }
            Err(error) => Verdict::Failed(Box::new(error)),
        });
    }
    (answered, entries)
}
