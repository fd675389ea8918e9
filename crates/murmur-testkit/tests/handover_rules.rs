//! Each rule of the cut-over, left out: random runs notice.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::fmt::Write as _;
use std::io::Write as _;

use murmur_testkit::handover::{self, Mode, Rule};

/// The seeds that are played without each rule; with all rules, all is well in them.
const SEEDS: u64 = 60;

#[test]
fn each_rule_left_out_is_noticed() {
    let mut table = format!("\nof {SEEDS} runs without a rule, wrong are:\n");
    let mut unnoticed = Vec::new();
    for rule in Rule::ALL {
        let summary = handover::run_all(0..SEEDS, Mode::Ledger, rule.keeping(), |scenario| {
            scenario.without(rule)
        });
        let wrong = summary.wrong_runs;
        writeln!(table, "  {:<24}{wrong:>4}", format!("{rule:?}")).unwrap();
        if summary.too_high + summary.too_low == 0 {
            unnoticed.push(rule);
        }
    }
    std::io::stdout()
        .lock()
        .write_all(table.as_bytes())
        .unwrap();
    assert_eq!(unnoticed, [], "left out, and no total is wrong");
}
