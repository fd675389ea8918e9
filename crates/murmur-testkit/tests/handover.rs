//! Random runs of the cut-over from a bootstrap to live, held against a recount.
//!
//! `HANDOVER_SEEDS=100000` plays more of them, `HANDOVER_SEED=7` one.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::env;
use std::io::Write as _;
use std::iter::repeat;
use std::time::Instant;

use murmur_testkit::handover::{self, Keeping, Mode, Scenario, Summary};

/// How many seeds are played unless told otherwise.
const SEEDS: u64 = 2_000;

/// The same where the state is on tables, and a run is a dozen times as long.
const SEEDS_ON_TABLES: u64 = 150;

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap())
}

/// Prints past the test harness, which would show nothing of a test that passes.
fn print(text: &str) {
    std::io::stdout().lock().write_all(text.as_bytes()).unwrap();
}

fn assert_all_is_well(summary: &Summary) {
    let failed: Vec<String> = summary.failed.iter().map(ToString::to_string).collect();
    let of = format!("{} of {} runs", summary.wrong_runs, summary.runs);
    assert!(failed.is_empty(), "\n{}\n{of}", failed.join("\n"));
}

fn assert_all_totals_are_right(keeping: Keeping, most: u64) {
    let (first, seeds) = match number("HANDOVER_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("HANDOVER_SEEDS").unwrap_or(most)),
    };
    let began = Instant::now();
    let seeds = first..first + seeds;
    let summary = handover::run_all(seeds, Mode::Ledger, keeping, |scenario| scenario);
    let (runs, took) = (summary.runs, began.elapsed());
    print(&format!(
        "\n{runs} runs of the cut-over, {keeping:?}, in {took:?}, met:\n{}",
        summary.met
    ));
    assert_all_is_well(&summary);
    if runs >= most {
        let mut missing = summary.met.missing();
        // What is in memory is not forgotten.
        missing.retain(|kind| keeping == Keeping::Tables || *kind != "expired rows removed");
        assert_eq!(missing, [""; 0], "never met");
    }
}

#[test]
fn every_total_is_a_recount_whatever_happens_at_the_cut_over() {
    assert_all_totals_are_right(Keeping::Memory, SEEDS);
}

#[test]
fn every_total_on_tables_is_a_recount_whatever_happens_at_the_cut_over() {
    assert_all_totals_are_right(Keeping::Tables, SEEDS_ON_TABLES);
}

#[test]
fn the_same_seed_meets_the_same() {
    let seeds = (0..50).zip(repeat(Keeping::Memory));
    for (seed, keeping) in seeds.chain((0..10).zip(repeat(Keeping::Tables))) {
        let scenario = Scenario::new(seed, Mode::Ledger, keeping);
        let [one, other] = [&scenario; 2].map(handover::run);
        assert_eq!(
            (one.met, one.wrong),
            (other.met, other.wrong),
            "seed {seed}"
        );
    }
}

#[test]
fn the_other_modes_are_caught_being_wrong() {
    let seeds = 60;
    let mut table = format!("\nthe same seeds in every mode:\n{}\n", handover::head());
    let [ledger, exactly_once, claim_first] = Mode::ALL.map(|mode| {
        let summary = handover::run_all(0..seeds, mode, Keeping::Memory, |scenario| scenario);
        table.push_str(&handover::row(mode, &summary));
        table.push('\n');
        summary
    });
    print(&table);
    assert_eq!(ledger.wrong_runs, 0);
    for summary in [exactly_once, claim_first] {
        assert!(summary.too_high > 0 && summary.too_low > 0);
        assert!(summary.wrong_runs * 2 > seeds, "{}", summary.wrong_runs);
    }
}
