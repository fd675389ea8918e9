//! Each rule of the cut-over, left out: random runs notice.
//!
//! `HANDOVER_RULE=VersionAsRead` leaves out only that one.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::env;
use std::fmt::Write as _;
use std::io::Write as _;

use murmur_testkit::handover::{self, Mode, Rule, Scenario};

/// How many runs are played at a time, until one without the rule is wrong.
const RUNS: usize = 30;

/// How often at most.
const TIMES: usize = 10;

#[test]
fn each_rule_left_out_is_noticed() {
    let mut table = "\nof runs without a rule, wrong are:\n".to_owned();
    let mut unnoticed = Vec::new();
    let only = env::var("HANDOVER_RULE").ok();
    let is_asked_for = |rule: &Rule| {
        only.as_ref()
            .is_none_or(|name| format!("{rule:?}") == *name)
    };
    for rule in Rule::ALL.into_iter().filter(is_asked_for) {
        let mut found = None;
        let mut seeds = (0..).filter(|seed| {
            let scenario = Scenario::new(*seed, Mode::Ledger, rule.keeping());
            rule.matters_in(&scenario)
        });
        for time in 1..=TIMES {
            let some: Vec<u64> = seeds.by_ref().take(RUNS).collect();
            let summary = handover::run_all(some, Mode::Ledger, rule.keeping(), |scenario| {
                scenario.without(rule)
            });
            if summary.too_high + summary.too_low > 0 {
                found = Some((summary.wrong_runs, time * RUNS));
                break;
            }
        }
        let name = format!("{rule:?}");
        match found {
            Some((wrong, of)) => writeln!(table, "  {name:<24}{wrong:>4} of {of:>4}").unwrap(),
            None => unnoticed.push(rule),
        }
    }
    std::io::stdout()
        .lock()
        .write_all(table.as_bytes())
        .unwrap();
    assert_eq!(unnoticed, [], "left out, and no total is wrong");
}
