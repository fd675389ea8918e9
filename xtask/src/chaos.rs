//! `cargo xtask chaos`: random runs of the delivery modes on a simulated Lambda and a DynamoDB that
//! fails. Each run is compared with a recount.

use std::io::IsTerminal;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use murmur_testkit::chaos::{self, Fleet, Mode, Place, Report, Rule, Summary};
use tokio::sync::oneshot;

use crate::server::{Server, Way};

/// How often a line of progress is printed where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// With this many runs or more, each kind of fault must occur.
const ENOUGH: u64 = 500;

/// Play random runs of a pipeline under faults, and compare each with a recount.
///
/// A seed determines everything: the history of a table, the pipeline, batches that are repeated,
/// regrouped or delivered twice at once, processes that are killed, stall or have wrong clocks, and
/// requests that fail, are lost, throttled or arrive late. Runs take place inside this process in
/// virtual time, or against a DynamoDB Local. A table of all faults is printed at the end. With
/// exactly-once every total must equal the recount. If a total does not, its seed is printed and
/// the task fails. The task also fails if some kind of fault never occurs in 500 runs or more.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Args {
    /// How many seeds to play
    #[arg(long, default_value_t = 1_000, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seeds: u64,
    /// The first seed
    #[arg(long, default_value_t = 0, value_name = "SEED")]
    from: u64,
    /// Play only this seed, as printed by a run that failed
    #[arg(long, value_name = "SEED", conflicts_with_all = ["seeds", "from"])]
    seed: Option<u64>,
    /// exactly-once, claim-first, at-least-once, or all; the totals of claim-first and
    /// at-least-once are wrong under faults, which does not fail the task
    #[arg(long, default_value = "exactly-once", value_name = "MODE", value_parser = modes)]
    mode: Modes,
    /// A DynamoDB Local to play against, such as http://127.0.0.1:8000. Every run makes two
    /// tables in it, which stay there
    #[arg(long, value_name = "URL")]
    endpoint: Option<String>,
    /// Leave out a rule of exactly-once, to see how many seeds detect it; fails if none does
    #[arg(long, value_name = "RULE", value_parser = rule)]
    without: Option<Rule>,
}

#[derive(Clone, Debug)]
struct Modes(Vec<Mode>);

fn modes(name: &str) -> Result<Modes, String> {
    if name == "all" {
        return Ok(Modes(Mode::ALL.into()));
    }
    let mode = Mode::ALL.into_iter().find(|mode| mode.name() == name);
    mode.map(|mode| Modes(vec![mode]))
        .ok_or_else(|| format!("one of {}, all", names(Mode::ALL.map(Mode::name))))
}

fn rule(name: &str) -> Result<Rule, String> {
    let rule = Rule::ALL.into_iter().find(|rule| rule.name() == name);
    rule.ok_or_else(|| format!("one of {}", names(Rule::ALL.map(Rule::name))))
}

fn names(names: impl IntoIterator<Item = impl ToString>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| name.to_string()).collect();
    names.join(", ")
}

/// Returns whether all runs passed. Cancel safe: no further run starts.
pub(crate) async fn run(args: Args) -> Result<bool> {
    let place = match &args.endpoint {
        Some(endpoint) => {
            // Checks once that the server answers, instead of failing in a thousand runs.
            Server::start(Way::Given(endpoint.clone())).await?;
            Place::Over(endpoint.clone())
        }
        None => Place::Here,
    };
    let seeds = match args.seed {
        Some(seed) => vec![seed],
        None => {
            let Some(end) = args.from.checked_add(args.seeds) else {
                bail!("--from and --seeds go past the last seed, {}", u64::MAX);
            };
            (args.from..end).collect()
        }
    };
    let mut played = Vec::new();
    for mode in args.mode.0.clone() {
        let fleet = Fleet {
            place: place.clone(),
            mode,
            without: args.without,
        };
        let shows = mode == Mode::ExactlyOnce || args.seed.is_some();
        let summary = sail(fleet, seeds.clone(), shows && args.without.is_none()).await?;
        played.push((mode, summary));
    }
    print(&args, &place, &played);
    Ok(played.iter().all(|(mode, summary)| match args.without {
        Some(_) => summary.wrong_runs > 0,
        None => *mode != Mode::ExactlyOnce || is_well(summary, &place),
    }))
}

/// Whether no run has a fault and enough situations occurred.
fn is_well(summary: &Summary, place: &Place) -> bool {
    let missing = summary.runs >= ENOUGH && !summary.missing(place).is_empty();
    summary.wrong_runs == 0 && !missing
}

/// Plays the runs on threads of their own. If `shows` is set, a failed run is printed at once.
async fn sail(fleet: Fleet, seeds: Vec<u64>, shows: bool) -> Result<Summary> {
    let stop = Stop::default();
    let stopped = Arc::clone(&stop.0);
    let (send, receive) = oneshot::channel();
    thread::Builder::new().name("chaos".into()).spawn(move || {
        let progress = Progress::new(fleet.mode, seeds.len() as u64);
        let summary = fleet.sail(seeds, |report| {
            progress.tell(report, shows);
            !stopped.load(Ordering::Relaxed)
        });
        progress.bar.finish_and_clear();
        // The caller may have stopped waiting.
        let _ = send.send(summary);
    })?;
    receive.await.context("the runs were broken off")
}

/// Stops the runs when it is dropped.
#[derive(Default)]
struct Stop(Arc<AtomicBool>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Displays progress: a bar on a terminal, otherwise a line every few seconds.
struct Progress {
    mode: Mode,
    bar: ProgressBar,
    wrong: AtomicU64,
    /// When the last line was printed; `None` on a terminal.
    printed: Option<Mutex<Instant>>,
}

impl Progress {
    fn new(mode: Mode, runs: u64) -> Self {
        let template = "{msg:<24} {wide_bar} {pos}/{len}  {per_sec}  {eta} left";
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::new(runs).with_style(style);
        bar.set_message(mode.name());
        let plain = !std::io::stderr().is_terminal();
        Self {
            mode,
            bar,
            wrong: AtomicU64::new(0),
            printed: plain.then(|| Mutex::new(Instant::now())),
        }
    }

    fn tell(&self, report: &Report, shows: bool) {
        self.bar.inc(1);
        if !report.wrong.is_empty() {
            let wrong = self.wrong.fetch_add(1, Ordering::Relaxed) + 1;
            self.bar
                .set_message(format!("{}, {wrong} wrong", self.mode));
            if shows {
                self.bar.suspend(|| println!("{report}"));
            }
        }
        let Some(printed) = &self.printed else { return };
        let mut printed = printed.lock().unwrap_or_else(PoisonError::into_inner);
        if printed.elapsed() >= LINE_EVERY {
            *printed = Instant::now();
            eprintln!(
                "{}: {} of {} runs, {} wrong",
                self.mode,
                self.bar.position(),
                self.bar.length().unwrap_or(0),
                self.wrong.load(Ordering::Relaxed)
            );
        }
    }
}

fn print(args: &Args, place: &Place, played: &[(Mode, Summary)]) {
    for (mode, summary) in played {
        println!("met in {mode}:");
        print!("{}", summary.met);
    }
    println!("{}", chaos::head());
    for (mode, summary) in played {
        println!("{}", chaos::row(*mode, summary));
    }
    let Some((_, exact)) = played.iter().find(|(mode, _)| *mode == Mode::ExactlyOnce) else {
        return;
    };
    let missing = exact.missing(place);
    if args.seed.is_none() && !missing.is_empty() {
        println!("never met: {}", names(missing));
    }
    if let Some(rule) = args.without {
        let (noticed, runs) = (exact.wrong_runs, exact.runs);
        println!("without {}: {noticed} of {runs} seeds notice", rule.name());
        return;
    }
    for report in &exact.failed {
        println!("again: {}", report.again());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn line(words: &str) -> Result<Args, clap::Error> {
        Line::try_parse_from(std::iter::once("chaos").chain(words.split_whitespace()))
            .map(|line| line.args)
    }

    #[test]
    fn modes_and_rules_go_by_their_names() {
        assert_eq!(line("").unwrap().mode.0, [Mode::ExactlyOnce]);
        assert_eq!(line("--mode all").unwrap().mode.0, Mode::ALL);
        for mode in Mode::ALL {
            let args = line(&format!("--mode {mode}")).unwrap();
            assert_eq!(args.mode.0, [mode]);
        }
        for rule in Rule::ALL {
            let args = line(&format!("--without {}", rule.name())).unwrap();
            assert_eq!(args.without, Some(rule));
        }
        assert!(line("--mode sometimes").is_err() && line("--without thinking").is_err());
        assert!(line("--seed 1 --seeds 2").is_err() && line("--seeds 0").is_err());
    }

    #[tokio::test]
    async fn a_seed_runs_again_and_is_well() {
        assert!(run(line("--seed 1").unwrap()).await.unwrap());
        assert!(
            run(line("--seed 3 --mode at-least-once").unwrap())
                .await
                .unwrap()
        );
    }

    #[tokio::test]
    async fn a_rule_left_out_is_noticed_by_some_seed() {
        let args = line("--without ids-in-cur --seeds 12").unwrap();
        assert!(run(args).await.unwrap());
    }
}
