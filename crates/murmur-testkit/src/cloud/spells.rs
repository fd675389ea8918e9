//! What goes wrong not once but for a while.

use std::collections::HashMap;
use std::time::Duration;

use super::count::Fault;

/// The spells that are on: their kinds and until when, in time since the start.
#[derive(Debug, Default)]
pub(super) struct Spells {
    /// Of single processes, by their numbers.
    own: HashMap<u64, (Fault, Duration)>,
    /// A set-up that is wrong for everybody.
    misfit: Duration,
}

impl Spells {
    /// A spell begins at a process, or at all of them.
    pub(super) fn begin(&mut self, process: u64, fault: Fault, until: Duration) {
        match fault {
            Fault::Misfit => self.misfit = self.misfit.max(until),
            _ => drop(self.own.insert(process, (fault, until))),
        }
    }

    /// Whether nothing that a process would send can be signed.
    pub(super) fn unsigned(&self, process: u64, now: Duration) -> bool {
        let own = self.own.get(&process);
        own.is_some_and(|(fault, until)| *fault == Fault::Unsigned && now < *until)
    }

    /// Why a request of a process is refused.
    pub(super) fn refuses(&self, process: u64, now: Duration) -> Option<Fault> {
        let own = self.own.get(&process).copied();
        match own {
            Some((Fault::Refused, until)) if now < until => Some(Fault::Refused),
            _ => (now < self.misfit).then_some(Fault::Misfit),
        }
    }
}
