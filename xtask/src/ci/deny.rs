//! Checks licences, advisories and sources with cargo-deny and `deny.toml`.

use std::env;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::{process, workspace};

const VERSION: &str = "0.20.2";

/// The variable that names a git clone or bundle of the advisory database, which is used instead of
/// fetching it.
const DATABASE_VAR: &str = "MURMUR_ADVISORY_DB";

/// The folder that `deny.toml` names as `db-path`.
const DATABASES: &str = "advisory-dbs";

const DATABASE_URL: &str = "https://github.com/RustSec/advisory-db";

/// The name that cargo-deny gives the folder of [`DATABASE_URL`].
const DATABASE: &str = "advisory-db-3157b0e258782691";

/// Runs `cargo deny check`.
///
/// Without an advisory database it checks the rest and prints that advisories were skipped; on a
/// build server it fails.
pub(super) async fn check() -> Result<()> {
    let deny = installed().await?;
    let command = |args: &[&str]| {
        let mut command = Command::new(&deny);
        command.args(["--workspace", "--all-features"]).args(args);
        command.current_dir(workspace::root());
        command
    };
    let given = env::var_os(DATABASE_VAR).filter(|path| !path.is_empty());
    if let Some(path) = given {
        clone_database(Path::new(&path)).await?;
        return process::run(&mut command(&["--offline", "check"])).await;
    }
    let mut fetch = command(&["fetch", "db"]);
    match process::telling("fetching the advisory database", process::read(&mut fetch)).await {
        Ok(_) => process::run(&mut command(&["--offline", "check"])).await,
        Err(error) if workspace::on_ci() => Err(error.context(format!(
            "no advisory database, and {DATABASE_VAR} names none"
        ))),
        Err(error) => {
            eprintln!("NOTICE: advisories are not checked, their database is not to be had.");
            eprintln!("Set {DATABASE_VAR} to a clone or bundle of it. {error:#}");
            process::run(&mut command(&[
                "--offline",
                "check",
                "bans",
                "licenses",
                "sources",
            ]))
            .await
        }
    }
}

/// Copies the database from `path` to where cargo-deny looks for it.
async fn clone_database(path: &Path) -> Result<()> {
    let path = fs::canonicalize(path)
        .with_context(|| format!("{DATABASE_VAR} is {}, which is not there", path.display()))?;
    let clone = workspace::target(DATABASES).join(DATABASE);
    if clone.exists() {
        fs::remove_dir_all(&clone)?;
    }
    let mut git = Command::new("git");
    process::run(git.args(["clone", "--quiet"]).arg(&path).arg(&clone)).await?;
    // A later run without the variable updates the database from its real source.
    let mut git = Command::new("git");
    git.args(["remote", "set-url", "origin", DATABASE_URL])
        .current_dir(&clone);
    process::run(&mut git).await
}

/// The program. It is installed under `target/` if needed.
async fn installed() -> Result<std::path::PathBuf> {
    let version = |program: &Path| {
        let mut command = Command::new(program);
        command.arg("--version");
        async move { process::read(&mut command).await.unwrap_or_default() }
    };
    let tools = workspace::target("tools");
    for program in ["cargo-deny".into(), tools.join("bin/cargo-deny")] {
        if version(&program).await.trim_end().ends_with(VERSION) {
            return Ok(program);
        }
    }
    println!(
        "installing cargo-deny {VERSION} into {}, about 3 minutes",
        tools.display()
    );
    let mut install = process::cargo(["install", "--quiet", "--locked", "--root"]);
    install.arg(&tools).arg(format!("cargo-deny@{VERSION}"));
    process::telling("installing cargo-deny", process::run(&mut install)).await?;
    let program = tools.join("bin/cargo-deny");
    if !program.exists() {
        bail!("cargo install has not made {}", program.display());
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_where_deny_toml_looks_for_it() {
        let text = fs::read_to_string(workspace::root().join("deny.toml")).unwrap();
        let deny: toml::Table = text.parse().unwrap();
        let path = deny["advisories"]["db-path"].as_str().unwrap();
        assert_eq!(path, format!("target/{DATABASES}"));
    }

    #[test]
    fn every_exception_says_why() {
        let text = fs::read_to_string(workspace::root().join("deny.toml")).unwrap();
        let deny: toml::Table = text.parse().unwrap();
        for exception in deny["advisories"]["ignore"].as_array().unwrap() {
            assert!(
                exception["reason"]
                    .as_str()
                    .is_some_and(|why| why.len() > 20),
                "{exception}"
            );
        }
    }
}
