//! The memory of a process that does a single task. Each figure comes from a separate child
//! process.

use std::fmt;

use anyhow::{Context, Result};
use murmur_state::Clock;
use murmur_state::time::SystemClock;
use murmur_testkit::Embedded;
use serde::{Deserialize, Serialize};
use tokio::process::Command;

use super::pipeline::{self, Means, Mode, Tables};
use super::workload::{Keys, Workload};
use super::{Effort, bootstrap, machine, server};
use crate::process;

/// The number of keys that a process counts for. All are different, so that memory kept per key is
/// visible.
const KEYS: [usize; 2] = [20_000, 200_000];

/// The number of events in a batch, and how many of them have the same key.
const BATCH: usize = 1_000;
const OF_A_KEY: usize = 5;

/// The task of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Work {
    /// Counts batches in one mode.
    Handler(Mode),
    /// Counts a table with a ledger.
    Bootstrap,
}

const WORKS: [Work; 4] = [
    Work::Handler(Mode::AtLeastOnce),
    Work::Handler(Mode::ExactlyOnce),
    Work::Handler(Mode::Ledger),
    Work::Bootstrap,
];

/// The task of a child process.
#[derive(Debug, Serialize, Deserialize)]
struct Task {
    work: Work,
    keys: usize,
    endpoint: String,
    /// The table that is counted.
    source: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Run {
    pub(super) work: Work,
    pub(super) keys: usize,
    /// After the client was created.
    pub(super) before_mb: Option<f64>,
    pub(super) peak_mb: Option<f64>,
}

pub(super) async fn measure(effort: Effort) -> Result<Vec<Run>> {
    let server = Embedded::start()?;
    let endpoint = server.endpoint();
    let (client, _) = server::client(&endpoint);
    let mut runs = Vec::new();
    for work in WORKS {
        for keys in KEYS.map(|keys| effort.of(keys)) {
            eprintln!("bench: memory, {work}, {keys} keys");
            let orders = match work {
                Work::Bootstrap => {
                    Some(bootstrap::Orders::put(&client, Keys::Uniform, keys).await?)
                }
                Work::Handler(_) => None,
            };
            let task = Task {
                work,
                keys,
                endpoint: endpoint.clone(),
                source: orders.as_ref().map(|orders| orders.table.name.clone()),
            };
            let mut child = Command::new(std::env::current_exe()?);
            child.args(["bench", "--alone", &serde_json::to_string(&task)?]);
            let told = process::read(&mut child).await?;
            runs.push(serde_json::from_str(&told).context("what a child told")?);
            if let Some(orders) = orders {
                orders.table.remove(&client).await?;
            }
        }
    }
    Ok(runs)
}

/// Does the task of a child process and reports the memory that it took.
pub(super) async fn alone(task: &str) -> Result<()> {
    let Task {
        work,
        keys,
        endpoint,
        source,
    } = serde_json::from_str(task).context("a child's work")?;
    let (client, _) = server::client(&endpoint);
    let tables = Tables::create(&client).await?;
    let before_mb = machine::resident_mb();
    match work {
        Work::Handler(mode) => {
            let handler = pipeline::handler(mode, &client, &tables, Means::default())?;
            let mut workload = Workload::new(Keys::Uniform, 5);
            let clock = SystemClock::new();
            let keys: Vec<usize> = (0..keys).collect();
            for keys in keys.chunks(BATCH / OF_A_KEY) {
                let keys: Vec<usize> = keys.iter().flat_map(|key| [*key; OF_A_KEY]).collect();
                let now = clock.now();
                pipeline::count(&handler, workload.event(&keys, |_| now)).await?;
            }
        }
        Work::Bootstrap => {
            let source = source.context("a table to count")?;
            bootstrap::fill(Mode::Ledger, &client, &tables, &source, bootstrap::PAGES).await?;
        }
    }
    let run = Run {
        work,
        keys,
        before_mb,
        peak_mb: machine::peak_mb(),
    };
    tables.remove(&client).await?;
    println!("{}", serde_json::to_string(&run)?);
    Ok(())
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handler(mode) => mode.fmt(f),
            Self::Bootstrap => f.pad("bootstrap"),
        }
    }
}
