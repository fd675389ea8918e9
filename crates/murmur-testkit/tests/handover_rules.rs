//! Each rule of the cut-over, left out: random runs notice.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::fmt::Write as _;
use std::io::Write as _;

use murmur_testkit::handover::{self, Mode, Rule};

/// How many seeds are played at a time, until some run without the rule is wrong.
const SEEDS: u64 = 60;

/// How often at most.
const TIMES: u64 = 10;

#[test]
fn each_rule_left_out_is_noticed() {
    let mut table = "\nof runs without a rule, wrong are:\n".to_owned();
    let mut unnoticed = Vec::new();
    for rule in Rule::ALL {
        let mut found = None;
        for time in 0..TIMES {
            let seeds = time * SEEDS..(time + 1) * SEEDS;
            let summary =
                handover::run_all(seeds.clone(), Mode::Ledger, rule.keeping(), |scenario| {
                    scenario.without(rule)
                });
            if summary.too_high + summary.too_low > 0 {
                found = Some((summary.wrong_runs, seeds.end));
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
