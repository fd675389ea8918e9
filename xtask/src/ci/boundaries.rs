//! The dependencies that each crate may have.

use anyhow::{Result, bail};

use crate::process;
use crate::workspace::Member;

/// No AWS crates: users of the crate compile none of them.
const AWS: &[&str] = &[
    "aws-config",
    "aws-sdk-*",
    "aws-smithy-*",
    "aws_lambda_events",
    "hyper",
    "lambda_runtime",
];

/// As [`AWS`], for crates that handle Lambda's events and so need their types.
const AWS_BUT_EVENTS: &[&str] = &[
    "aws-config",
    "aws-sdk-*",
    "aws-smithy-*",
    "hyper",
    "lambda_runtime",
];

/// The allowed dependencies of one crate.
struct Rule {
    name: &'static str,
    /// The crates of this workspace that it may depend on.
    ours: &'static [&'static str],
    /// Crates that must not be in its dependency tree.
    never: &'static [&'static str],
    /// A feature, and crates that must not be in the tree without it.
    without: Option<(&'static str, &'static [&'static str])>,
}

const RULES: &[Rule] = &[
    Rule {
        name: "murmur-core",
        ours: &["murmur-state"],
        never: AWS,
        without: None,
    },
    Rule {
        name: "murmur-lambda-ddbstreams",
        ours: &["murmur-core", "murmur-state"],
        never: &["aws-config", "aws-sdk-*", "aws-smithy-*"],
        without: Some(("runtime", AWS_BUT_EVENTS)),
    },
    Rule {
        name: "murmur-snapshot",
        ours: &["murmur-core", "murmur-state"],
        never: AWS,
        without: None,
    },
    Rule {
        name: "murmur-snapshot-ddb",
        ours: &[
            "murmur-core",
            "murmur-snapshot",
            "murmur-state",
            "murmur-streams",
        ],
        never: &["lambda_runtime"],
        without: None,
    },
    Rule {
        name: "murmur-state",
        ours: &[],
        never: AWS,
        without: None,
    },
    Rule {
        name: "murmur-state-ddb",
        ours: &["murmur-state"],
        never: &["aws_lambda_events", "lambda_runtime"],
        without: None,
    },
    Rule {
        name: "murmur-streams",
        ours: &["murmur-state"],
        never: &["lambda_runtime"],
        without: Some(("aws", AWS_BUT_EVENTS)),
    },
];

/// Checks every published crate against its rule, with every set of its features.
pub(super) async fn check(members: &[Member]) -> Result<()> {
    for member in members.iter().filter(|member| member.published) {
        let Some(rule) = RULES.iter().find(|rule| rule.name == member.name) else {
            bail!(
                "{}: say in xtask/src/ci/boundaries.rs what it may depend on",
                member.name
            );
        };
        if let Some(crossing) = rule.own_crossing(member) {
            bail!(
                "{} depends on {crossing}, which is none of {:?}",
                member.name,
                rule.ours
            );
        }
        for flags in member.feature_sets() {
            let tree = process::read(&mut tree(&member.name, &flags)).await?;
            if let Some(offender) = rule.offender(&flags, &tree) {
                let mut why = tree_of(offender, &member.name, &flags);
                bail!(
                    "{} {} must not contain {offender}, and does:\n{}",
                    member.name,
                    flags.join(" "),
                    process::read(&mut why).await?
                );
            }
        }
        println!("{}: ok", member.name);
    }
    Ok(())
}

impl Rule {
    /// A crate of this workspace that the member depends on but must not.
    fn own_crossing<'a>(&self, member: &'a Member) -> Option<&'a str> {
        let mut dependencies = member.dependencies.iter().map(String::as_str);
        dependencies.find(|name| name.starts_with("murmur-") && !self.ours.contains(name))
    }

    /// A crate in `tree` that must not be there with these feature flags.
    fn offender<'a>(&self, flags: &[String], tree: &'a str) -> Option<&'a str> {
        let mut banned = self.never.to_vec();
        if let Some((feature, crates)) = self.without {
            let has = |flag: &String| {
                flag == "--all-features" || *flag == format!("--features={feature}")
            };
            if !flags.iter().any(has) {
                banned.extend(crates);
            }
        }
        // The first word of a line is the crate's name; `--prefix none` leaves nothing before it.
        let mut names = tree
            .lines()
            .filter_map(|line| line.split_whitespace().next());
        names.find(|name| banned.iter().any(|pattern| matches(pattern, name)))
    }
}

/// Whether `name` matches `pattern`, which may end in `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(begin) => name.starts_with(begin),
        None => name == pattern,
    }
}

/// The command that lists what `package` compiles for a user, on any platform.
fn tree(package: &str, flags: &[String]) -> tokio::process::Command {
    let mut tree = process::cargo(["tree", "--package", package, "--edges", "normal,build"]);
    tree.args(["--target", "all", "--prefix", "none"])
        .args(flags);
    tree
}

/// The command that shows why `offender` is in the tree of `package`.
fn tree_of(offender: &str, package: &str, flags: &[String]) -> tokio::process::Command {
    let mut tree = process::cargo(["tree", "--package", package, "--edges", "normal,build"]);
    tree.args(["--target", "all", "--invert", offender])
        .args(flags);
    tree
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAMS: &Rule = &Rule {
        name: "murmur-streams",
        ours: &["murmur-state"],
        never: &["lambda_runtime"],
        without: Some(("aws", &["aws-sdk-*"])),
    };

    fn flags(text: &str) -> Vec<String> {
        text.split_whitespace().map(Into::into).collect()
    }

    #[test]
    fn a_banned_crate_is_named() {
        let tree = "murmur-streams v0.10.0 (/ws)\nlambda_runtime v1.5.0\nserde v1.0.229 (*)\n";
        assert_eq!(
            STREAMS.offender(&flags("--all-features"), tree),
            Some("lambda_runtime")
        );
    }

    #[test]
    fn a_crate_behind_a_feature_is_banned_without_it_only() {
        let tree = "murmur-streams v0.10.0 (/ws)\naws-sdk-dynamodbstreams v1.122.0\n";
        let offender = Some("aws-sdk-dynamodbstreams");
        let none = "--no-default-features";
        assert_eq!(STREAMS.offender(&flags(none), tree), offender);
        assert_eq!(
            STREAMS.offender(&flags(&format!("{none} --features=other")), tree),
            offender
        );
        assert_eq!(
            STREAMS.offender(&flags(&format!("{none} --features=aws")), tree),
            None
        );
        assert_eq!(STREAMS.offender(&flags("--all-features"), tree), None);
    }

    #[test]
    fn a_name_is_matched_whole_unless_the_pattern_has_a_star() {
        assert!(matches("hyper", "hyper") && !matches("hyper", "hyper-util"));
        assert!(matches("aws-sdk-*", "aws-sdk-sts") && !matches("aws-sdk-*", "aws-sigv4"));
    }

    #[test]
    fn a_crate_of_ours_that_is_not_in_the_rule_is_named() {
        let mut member = Member {
            name: "murmur-streams".into(),
            folder: "/ws".into(),
            published: true,
            features: vec![],
            dependencies: vec!["murmur-state".into(), "serde".into()],
        };
        assert_eq!(STREAMS.own_crossing(&member), None);
        member.dependencies.push("murmur-core".into());
        assert_eq!(STREAMS.own_crossing(&member), Some("murmur-core"));
    }
}
