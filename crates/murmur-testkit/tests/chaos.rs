//! Random runs held against a recount: in memory in virtual time, and against DynamoDB Local.
//!
//! `cargo xtask itest`, which names a server, plays many times as many seeds as a plain
//! `cargo test`; `cargo xtask chaos` plays as many as it is told to.

#![allow(clippy::unwrap_used, reason = "a panic is the failure message")]

use std::env;
use std::io::Write as _;
use std::sync::Mutex;

use murmur_testkit::chaos::{self, Fleet, Mode, Place, Summary};
use murmur_testkit::{Dynamo, ENDPOINT_VAR};

/// The server of an integration test.
fn endpoint() -> Option<String> {
    env::var(ENDPOINT_VAR).ok().filter(|url| !url.is_empty())
}

/// One fleet at a time: each takes all cores.
static CORES: Mutex<()> = Mutex::new(());

fn sail(place: &Place, mode: Mode, seeds: u64) -> Summary {
    let _cores = CORES
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let fleet = Fleet {
        place: place.clone(),
        mode,
        without: None,
    };
    fleet.sail(0..seeds, |_| true)
}

/// Prints past the test harness, which would show nothing of a test that passes.
fn print(text: &str) {
    std::io::stdout().lock().write_all(text.as_bytes()).unwrap();
}

fn assert_all_is_well(what: &str, place: &Place, summary: &Summary) {
    print(&format!(
        "\n{what}: {} runs, {} events, met:\n{}",
        summary.runs, summary.events, summary.met
    ));
    let failed: Vec<String> = summary.failed.iter().map(ToString::to_string).collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    assert_eq!(summary.missing(place), [""; 0], "never met");
}

#[test]
fn every_total_is_right_in_memory_whatever_goes_wrong() {
    let seeds = if endpoint().is_some() { 2_000 } else { 300 };
    let summary = sail(&Place::Here, Mode::ExactlyOnce, seeds);
    assert_eq!(summary.runs, seeds);
    assert_all_is_well("exactly-once in memory", &Place::Here, &summary);
}

#[test]
fn every_total_is_right_over_dynamodb_local() {
    // Without one a few runs over HTTP see that the way is there.
    let (dynamo, seeds) = match endpoint() {
        Some(endpoint) => (Dynamo::at(endpoint), 200),
        None => {
            let server = murmur_testkit::Embedded::start().unwrap();
            (Dynamo::embedded(server), 20)
        }
    };
    let place = Place::Over(dynamo.endpoint().to_owned());
    let summary = sail(&place, Mode::ExactlyOnce, seeds);
    let failed: Vec<String> = summary.failed.iter().map(ToString::to_string).collect();
    assert!(failed.is_empty(), "\n{}", failed.join("\n"));
    if !dynamo.is_embedded() {
        assert_all_is_well("exactly-once over DynamoDB Local", &place, &summary);
    }
}

#[test]
fn the_other_modes_are_caught_being_wrong() {
    let seeds = 60;
    let mut table = format!("\nthe same seeds in every mode:\n{}\n", chaos::head());
    let [exact, claim_first, at_least_once] = Mode::ALL.map(|mode| {
        let summary = sail(&Place::Here, mode, seeds);
        table.push_str(&chaos::row(mode, &summary));
        table.push('\n');
        summary
    });
    print(&table);
    assert_eq!(exact.wrong_runs, 0);
    assert!(claim_first.too_low > 0 && claim_first.too_high > 0);
    assert!(at_least_once.too_high > 0);
    for summary in [claim_first, at_least_once] {
        assert!(summary.wrong_runs * 3 > seeds, "{}", summary.wrong_runs);
    }
}

#[test]
fn the_same_seed_meets_the_same() {
    for seed in 0..6 {
        let fleet = Fleet {
            place: Place::Here,
            mode: Mode::ExactlyOnce,
            without: None,
        };
        assert_eq!(fleet.run(seed).met, fleet.run(seed).met, "seed {seed}");
    }
}
