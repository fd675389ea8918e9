//! Plays many runs, spread over the cores.

use std::sync::{Mutex, PoisonError};

use super::report::{Report, Summary};
use super::scenario::{Mode, Scenario};
use super::{Rule, run, run_over};
use crate::runs::{lock, on_all_cores};

/// Where runs are played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Inside this process, on a simulated DynamoDB.
    Here,
    /// Against the DynamoDB at this URL.
    Over(String),
}

/// The runs of many seeds.
#[derive(Debug, Clone)]
pub struct Fleet {
    /// Where the runs are played.
    pub place: Place,
    /// The delivery mode.
    pub mode: Mode,
    /// The protocol rule that is left out, if any.
    pub without: Option<Rule>,
}

impl Fleet {
    /// Plays the scenarios of `seeds` on all cores and passes each report to `done` as soon as the
    /// run has ended. No further run starts after `done` returns `false`.
    pub fn sail(
        &self,
        seeds: impl IntoIterator<Item = u64>,
        done: impl Fn(&Report) -> bool + Sync,
    ) -> Summary {
        let summary = Mutex::new(Summary::default());
        on_all_cores(seeds, |seed| {
            let report = self.run(seed);
            let go_on = done(&report);
            lock(&summary).add(report);
            go_on
        });
        summary.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    /// Plays the scenario of one seed.
    pub fn run(&self, seed: u64) -> Report {
        let scenario = Scenario::new(seed, self.mode);
        let scenario = match self.without {
            Some(rule) => scenario.without(rule),
            None => scenario,
        };
        match &self.place {
            Place::Here => run(&scenario),
            Place::Over(endpoint) => run_over(&scenario, endpoint),
        }
    }
}
