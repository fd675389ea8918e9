//! `cargo xtask ci`: runs the checks of this project.

mod boundaries;
mod circles;
mod deny;
mod docs;
mod newcomer;
mod package;
mod pages;
mod tidy;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{itest, process, workspace};

/// Run the checks of this project, all or some of them.
///
/// Runs all of them even if one fails, and fails at the end.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The checks to run, by their names in `--list`; all by default
    #[arg(value_name = "CHECK", hide_possible_values = true)]
    checks: Vec<Check>,
    /// List the checks in their order, and run none of them
    #[arg(long)]
    list: bool,
}

/// The checks, the quickest first. Their doc comments are their help.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Check {
    /// The code is formatted
    Fmt,
    /// Manifests, crate docs and README agree with each other
    Tidy,
    /// Links, names, files, tests and messages in the pages exist
    Docs,
    /// Modules of the library crates do not import each other in a circle
    Circles,
    /// No crate depends on more than it may, with any of its features
    Boundaries,
    /// Licences, advisories and sources of the dependencies (cargo-deny)
    Deny,
    /// Clippy finds nothing
    Clippy,
    /// Rustdoc finds nothing
    Rustdoc,
    /// Every crate compiles alone, without its features and with each of them
    Features,
    /// The project of docs/getting-started.md compiles with the manifest shown there
    Newcomer,
    /// All crates can be packaged, and the packages compile
    Package,
    /// Renaming murmur-core, which publishing needs, works
    Rename,
    /// All tests, as `cargo xtask itest` runs them
    Test,
}

impl Check {
    fn name(self) -> String {
        self.to_possible_value()
            .map(|value| value.get_name().to_owned())
            .unwrap_or_default()
    }

    fn help(self) -> String {
        let value = self.to_possible_value();
        value
            .and_then(|value| value.get_help().map(ToString::to_string))
            .unwrap_or_default()
    }

    async fn run(self) -> Result<()> {
        match self {
            Self::Fmt => process::run(&mut process::cargo(["fmt", "--all", "--check"])).await,
            Self::Tidy => tidy::check(&workspace::members().await?),
            Self::Docs => {
                docs::check()?;
                pages::check()
            }
            Self::Circles => circles::check(&workspace::members().await?),
            Self::Boundaries => boundaries::check(&workspace::members().await?).await,
            Self::Deny => deny::check().await,
            Self::Clippy => {
                let mut clippy = process::cargo(["clippy", "--workspace", "--all-targets"]);
                clippy.args(["--all-features", "--", "--deny", "warnings"]);
                process::run(&mut clippy).await
            }
            Self::Rustdoc => {
                let mut doc = process::cargo(["doc", "--workspace", "--all-features", "--no-deps"]);
                doc.arg("--document-private-items")
                    .env("RUSTDOCFLAGS", "--deny warnings");
                process::run(&mut doc).await
            }
            Self::Features => features().await,
            Self::Newcomer => newcomer::check().await,
            Self::Package => package::check().await,
            Self::Rename => package::check_rename().await,
            Self::Test => match itest::run(itest::Args::all()).await? {
                true => Ok(()),
                false => bail!("some tests fail"),
            },
        }
    }
}

/// Returns whether all checks passed. Cancel safe: the running check is stopped.
pub(crate) async fn run(args: Args) -> Result<bool> {
    if args.list {
        for check in Check::value_variants() {
            println!("{:12}{}", check.name(), check.help());
        }
        return Ok(true);
    }
    let mut results = Vec::new();
    for &check in Check::value_variants() {
        if !args.checks.is_empty() && !args.checks.contains(&check) {
            continue;
        }
        println!("\n== {}: {}", check.name(), check.help());
        let began = Instant::now();
        let result = check.run().await;
        if let Err(error) = &result {
            eprintln!("error: {error:#}");
        }
        results.push((check.name(), result.is_ok(), began.elapsed()));
    }
    print!("\n{}", summary(&results));
    Ok(results.iter().all(|(_, passed, _)| *passed))
}

/// A line for every check, and one for the total.
fn summary(results: &[(String, bool, Duration)]) -> String {
    let line = |name: &str, passed: bool, time: Duration| {
        let result = if passed { "ok" } else { "FAILED" };
        format!("{name:12}{result:8}{:6.1} s\n", time.as_secs_f64())
    };
    let mut lines: String = results
        .iter()
        .map(|(name, passed, time)| line(name, *passed, *time))
        .collect();
    let failed = results.iter().filter(|(_, passed, _)| !passed).count();
    lines += &line(
        "all",
        failed == 0,
        results.iter().map(|(_, _, time)| *time).sum(),
    );
    lines
}

/// Checks every published crate separately, because crates enable each other's features.
async fn features() -> Result<()> {
    for member in workspace::members()
        .await?
        .iter()
        .filter(|member| member.published)
    {
        for flags in member.feature_sets() {
            println!("{} {}", member.name, flags.join(" "));
            let mut clippy = process::cargo(["clippy", "--quiet", "--package", &member.name]);
            process::run(clippy.args(&flags).args(["--", "--deny", "warnings"])).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_check_says_what_it_holds() {
        for check in Check::value_variants() {
            assert!(!check.help().is_empty(), "{}", check.name());
        }
    }

    #[test]
    fn the_summary_names_what_failed_and_how_long_it_took() {
        let second = Duration::from_secs(1);
        let all = [
            ("fmt".to_owned(), true, second),
            ("doc".to_owned(), false, 2 * second),
        ];
        let expected = "fmt         ok         1.0 s\n\
                        doc         FAILED     2.0 s\n\
                        all         FAILED     3.0 s\n";
        assert_eq!(summary(&all), expected);
        assert!(summary(&all[..1]).ends_with("all         ok         1.0 s\n"));
    }
}
