//! Faults that last for a while.

use std::collections::HashMap;
use std::time::Duration;

use super::count::Fault;

/// The active spells: their kinds and ends, as time since the start.
#[derive(Debug, Default)]
pub(super) struct Spells {
    /// Spells of single processes, by their numbers.
    own: HashMap<u64, (Fault, Duration)>,
    /// The end of a wrong set-up, which affects all processes.
    misfit: Duration,
}

impl Spells {
    /// Starts a spell at one process or at all of them.
    pub(super) fn begin(&mut self, process: u64, fault: Fault, until: Duration) {
        match fault {
            Fault::Misfit => self.misfit = self.misfit.max(until),
            _ => drop(self.own.insert(process, (fault, until))),
        }
    }

    /// Whether a request of the process cannot be signed.
    pub(super) fn unsigned(&self, process: u64, now: Duration) -> bool {
        let own = self.own.get(&process);
        own.is_some_and(|(fault, until)| *fault == Fault::Unsigned && now < *until)
    }

    /// The reason why a request of the process is refused.
    pub(super) fn refuses(&self, process: u64, now: Duration) -> Option<Fault> {
        let own = self.own.get(&process).copied();
        match own {
            Some((Fault::Refused, until)) if now < until => Some(Fault::Refused),
            _ => (now < self.misfit).then_some(Fault::Misfit),
        }
    }
}
