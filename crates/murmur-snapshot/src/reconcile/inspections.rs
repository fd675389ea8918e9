//! What compares each pipeline: by its ledger, by a recount, or by both where items settle.

use murmur_core::{Inspection, LedgerInspection, RecountInspection};

use super::report::{Findings, SettledFindings};

/// What compares each pipeline, with its place among all.
pub(super) struct Inspections<'a, T> {
    pub(super) ledgers: Vec<OfLedger<'a, T>>,
    pub(super) recounts: Vec<OfKeys<'a, T>>,
}

/// A pipeline's items, compared with its ledger.
pub(super) struct OfLedger<'a, T> {
    place: usize,
    pub(super) items: LedgerInspection<'a, T>,
    /// Whether the table tells all that its items contribute.
    can_be_recounted: bool,
}

/// A pipeline's keys, recounted.
pub(super) struct OfKeys<'a, T> {
    place: usize,
    /// Whether its items are compared with a ledger, too.
    pub(super) beside_ledger: bool,
    pub(super) keys: RecountInspection<'a, T>,
}

/// What is known of a pipeline before it is compared.
pub(super) struct Terms {
    /// Whether its items settle.
    pub(super) settling: bool,
    pub(super) keeps_expired: bool,
}

impl<'a, T: Send + Sync + 'static> Inspections<'a, T> {
    /// Of all pipelines, in their order; `recount` begins the recount of the one at a place.
    pub(super) fn of(
        all: Vec<Inspection<'a, T>>,
        terms: &[Terms],
        recount: impl Fn(usize) -> Option<RecountInspection<'a, T>>,
    ) -> Self {
        let mut inspections = Self {
            ledgers: Vec::new(),
            recounts: Vec::new(),
        };
        for ((place, inspection), terms) in all.into_iter().enumerate().zip(terms) {
            match inspection {
                Inspection::Ledger(items) => {
                    let can_be_recounted = !terms.keeps_expired;
                    if terms.settling && can_be_recounted {
                        inspections.begin(place, recount(place));
                    }
                    inspections.ledgers.push(OfLedger {
                        place,
                        items,
                        can_be_recounted,
                    });
                }
                Inspection::Recount(keys) => inspections.recounts.push(OfKeys {
                    place,
                    beside_ledger: false,
                    keys,
                }),
            }
        }
        inspections
    }

    /// Begins a recount beside the ledger at this place, or begins it anew; where it stands.
    fn begin(&mut self, place: usize, recount: Option<RecountInspection<'a, T>>) -> Option<usize> {
        let keys = recount?;
        let begun = self.recounts.iter().position(|of| of.place == place);
        if let Some(of) = begun.and_then(|begun| self.recounts.get_mut(begun)) {
            of.keys = keys;
            return begun;
        }
        self.recounts.push(OfKeys {
            place,
            beside_ledger: true,
            keys,
        });
        Some(self.recounts.len() - 1)
    }

    /// Once all items were compared with the ledgers: begins the recounts that have to begin now, since
    /// items were mended after the first one, or settled ones were met where none was expected. Where
    /// they stand.
    pub(super) fn after_items(
        &mut self,
        recount: impl Fn(usize) -> Option<RecountInspection<'a, T>>,
    ) -> Vec<usize> {
        let is_recounted = |place| self.recounts.iter().any(|of| of.place == place);
        let due = |of: &&OfLedger<'_, T>| match is_recounted(of.place) {
            true => of.items.mended() > 0,
            false => of.items.settled() > 0 && of.can_be_recounted,
        };
        let due: Vec<usize> = self.ledgers.iter().filter(due).map(|of| of.place).collect();
        let begun = due
            .into_iter()
            .map(|place| self.begin(place, recount(place)));
        begun.flatten().collect()
    }

    pub(super) fn suspects(&self) -> u64 {
        let of_ledgers = self.ledgers.iter().map(|of| of.items.suspects());
        let of_recounts = self.recounts.iter().map(|of| of.keys.suspects());
        of_ledgers.sum::<u64>() + of_recounts.sum::<u64>()
    }

    /// What was found of each pipeline, in their order.
    pub(super) fn findings(self) -> impl Iterator<Item = (Findings, SettledFindings)> {
        let mut all: Vec<(usize, Findings, SettledFindings)> = Vec::new();
        for of in self.ledgers {
            let found = of.items.findings();
            let settled = match found.settled > 0 && !of.can_be_recounted {
                true => SettledFindings::KeepsExpired,
                false => SettledFindings::NotSettling,
            };
            all.push((of.place, Findings::Ledger(found), settled));
        }
        for of in self.recounts {
            let found = of.keys.findings();
            match all.iter_mut().find(|(place, ..)| *place == of.place) {
                Some((.., settled)) => *settled = SettledFindings::Recount(found),
                None => {
                    let settled = SettledFindings::NotSettling;
                    all.push((of.place, Findings::Recount(found), settled));
                }
            }
        }
        all.sort_by_key(|(place, ..)| *place);
        all.into_iter()
            .map(|(_, findings, settled)| (findings, settled))
    }
}
