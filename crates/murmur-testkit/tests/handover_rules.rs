//! Each rule of the cut-over, left out: random runs notice.
//!
//! `HANDOVER_RULE=VersionAsRead` leaves out only that one.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::env;
use std::fmt::Write as _;
use std::io::Write as _;

use murmur_testkit::handover::{self, Mode, Rule, Scenario};

/// How many runs are played at a time, until one without the rule is wrong.
const RUNS: usize = 16;

/// How often at most.
const TIMES: usize = 20;

/// Of how many runs without the rule how many are wrong, once any is: runs in which the rule matters
/// and that are `like` this.
fn wrong_without(rule: Rule, like: impl Fn(&Scenario) -> bool) -> Option<(u64, usize)> {
    let mut seeds = (0..).filter(|seed| {
        let scenario = Scenario::new(*seed, Mode::Ledger, rule.keeping());
        rule.matters_in(&scenario) && like(&scenario)
    });
    for time in 1..=TIMES {
        let some: Vec<u64> = seeds.by_ref().take(RUNS).collect();
        let summary = handover::run_all(some, Mode::Ledger, rule.keeping(), |scenario| {
            scenario.without(rule)
        });
        if summary.too_high + summary.too_low > 0 {
            return Some((summary.wrong_runs, time * RUNS));
        }
    }
    None
}

/// Leaves out each of `rules`, which runs that are `like` this must notice.
fn are_noticed(rules: &[Rule], of: &str, like: impl Fn(&Scenario) -> bool) {
    let mut table = format!("\nof {of} without a rule, wrong are:\n");
    let mut unnoticed = Vec::new();
    let only = env::var("HANDOVER_RULE").ok();
    let is_asked_for = |rule: &&Rule| {
        only.as_ref()
            .is_none_or(|name| format!("{rule:?}") == *name)
    };
    for rule in rules.iter().filter(is_asked_for) {
        let name = format!("{rule:?}");
        match wrong_without(*rule, &like) {
            Some((wrong, of)) => writeln!(table, "  {name:<24}{wrong:>4} of {of:>4}").unwrap(),
            None => unnoticed.push(*rule),
        }
    }
    std::io::stdout()
        .lock()
        .write_all(table.as_bytes())
        .unwrap();
    assert_eq!(unnoticed, [], "left out, and no total is wrong");
}

#[test]
fn each_rule_left_out_is_noticed() {
    are_noticed(&Rule::ALL, "runs", |_| true);
}

#[test]
fn rules_of_versions_matter_where_items_settle_too() {
    let rules = [Rule::VersionAsRead, Rule::NewerIsNotEnough];
    are_noticed(&rules, "runs that settle", |scenario| {
        scenario.settling.is_some()
    });
}
