//! Measures the processor alone, with criterion.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Effort;
use crate::{process, workspace};

/// Nanoseconds per event, by the name of the benchmark and the size of its batches.
pub(super) type Figures = BTreeMap<String, BTreeMap<usize, f64>>;

pub(super) async fn measure(effort: Effort) -> Result<Figures> {
    eprintln!("bench: processor");
    let folder = workspace::target("criterion");
    if folder.exists() {
        // Results of an earlier version must not be read as results of this one.
        fs::remove_dir_all(&folder)?;
    }
    let mut bench = process::cargo(["bench", "--package", "murmur-core", "--bench", "processor"]);
    bench.args(["--", "--noplot"]);
    if effort.quick {
        bench.arg("--quick");
    }
    process::run(&mut bench).await?;
    read(&folder)
}

fn read(folder: &Path) -> Result<Figures> {
    let mut figures = Figures::new();
    for group in fs::read_dir(folder).context("criterion wrote no figures")? {
        let group = group?;
        let name = group.file_name().to_string_lossy().into_owned();
        for batch in fs::read_dir(group.path())? {
            let batch = batch?;
            let size = batch.file_name().to_string_lossy().parse::<usize>();
            let (Ok(size), path) = (size, batch.path().join("new/estimates.json")) else {
                continue;
            };
            let text = fs::read_to_string(&path)
                .with_context(|| format!("criterion wrote no {}", path.display()))?;
            let estimates: Value = serde_json::from_str(&text)?;
            let median = estimates["median"]["point_estimate"].as_f64();
            let median = median.context("criterion's figures have no median")?;
            let of_group = figures.entry(name.clone()).or_default();
            of_group.insert(size, median / size as f64);
        }
    }
    Ok(figures)
}
