//! `cargo xtask itest`: runs all tests against a real DynamoDB Local.

use anyhow::Result;
use murmur_testkit::ENDPOINT_VAR;

use crate::process;
use crate::server::{Found, Server, choose};

/// Run all tests, with a real DynamoDB Local for those that need one.
///
/// Runs `cargo test --workspace --all-features` with a server beside it. The server is the one that
/// MURMUR_DYNAMODB_ENDPOINT names. Without that variable a server is started for this run and
/// stopped after it, by docker compose or by Java 17 and Maven. If neither is installed, the tests
/// use the embedded DynamoDB; with CI=true that is a failure.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Passed to `cargo test`; a `-p` replaces `--workspace`:
    /// `cargo xtask itest -- -p murmur-state-ddb sums`
    #[arg(last = true, value_name = "CARGO_TEST_ARGS")]
    args: Vec<String>,
}

impl Args {
    /// All tests, without stopping at the first failure.
    pub(crate) fn all() -> Self {
        Self {
            args: vec!["--no-fail-fast".into()],
        }
    }
}

/// Returns whether all tests passed. Cancel safe: the tests and the server are stopped.
pub(crate) async fn run(Args { args }: Args) -> Result<bool> {
    let found = Found::look().await;
    let way = choose(&found)?;
    println!("itest: {way}");
    let server = Server::start(way).await?;
    let mut tests = process::cargo(cargo_test(&args));
    match server.endpoint() {
        Some(endpoint) => {
            println!("itest: the tests use {endpoint}");
            tests.env(ENDPOINT_VAR, endpoint)
        }
        None => tests.env_remove(ENDPOINT_VAR),
    };
    process::succeeds(&mut tests).await
}

fn cargo_test(args: &[String]) -> Vec<&str> {
    let of_cargo = args.iter().take_while(|arg| *arg != "--");
    let mut command = vec!["test", "--all-features"];
    if !of_cargo
        .into_iter()
        .any(|arg| arg.starts_with("-p") || arg.starts_with("--package"))
    {
        command.push("--workspace");
    }
    command.extend(args.iter().map(String::as_str));
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(args: &[&str]) -> String {
        cargo_test(&args.iter().map(ToString::to_string).collect::<Vec<_>>()).join(" ")
    }

    #[test]
    fn all_packages_are_tested_unless_some_are_named() {
        assert_eq!(line(&[]), "test --all-features --workspace");
        assert_eq!(line(&["-p", "xtask"]), "test --all-features -p xtask");
        assert_eq!(
            line(&["--package=xtask"]),
            "test --all-features --package=xtask"
        );
    }

    #[test]
    fn a_filter_and_what_is_meant_for_the_tests_is_passed_on() {
        assert_eq!(
            line(&["sums", "--", "-p"]),
            "test --all-features --workspace sums -- -p"
        );
    }
}
