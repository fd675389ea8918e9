//! Checks that manifests, crate docs and README agree with each other.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::workspace::{self, Member};

/// The fields that every member inherits from the workspace.
const INHERITED: [&str; 4] = ["edition", "license", "rust-version", "version"];

/// The fields that a published crate also needs.
const PUBLISHED: [&str; 4] = ["categories", "description", "keywords", "readme"];

/// Reports all errors at once.
pub(super) fn check(members: &[Member]) -> Result<()> {
    let mut wrong = Vec::new();
    for member in members {
        let read = |file: &str| {
            let path = member.folder.join(file);
            fs::read_to_string(&path).with_context(|| path.display().to_string())
        };
        let manifest = read("Cargo.toml")?.parse().context("Cargo.toml")?;
        let complaints = manifest_complaints(&manifest, member.published);
        wrong.extend(
            complaints
                .into_iter()
                .map(|complaint| format!("{}: {complaint}", member.name)),
        );

        let is_library = member.folder.join("src/lib.rs").exists();
        let root = if is_library {
            "src/lib.rs"
        } else {
            "src/main.rs"
        };
        if !has_docs(&read(root)?) {
            wrong.push(format!(
                "{}: {root} does not begin with its docs",
                member.name
            ));
        }
    }
    let published = members.iter().filter(|member| member.published);
    let readme = fs::read_to_string(workspace::root().join("README.md")).unwrap_or_default();
    for member in published.filter(|member| !in_table(&readme, &member.name)) {
        wrong.push(format!(
            "README.md: no row of a table names `{}`",
            member.name
        ));
    }
    let rust = format!("Rust {}", rust_version()?);
    for file in ["README.md", "CONTRIBUTING.md", "docs/getting-started.md"] {
        let text = fs::read_to_string(workspace::root().join(file)).unwrap_or_default();
        if !text.contains(&rust) {
            wrong.push(format!(
                "{file}: it does not say {rust:?}, as the manifest does"
            ));
        }
    }
    for file in ["LICENSE-APACHE", "LICENSE-MIT"] {
        if !workspace::root().join(file).exists() {
            wrong.push(format!("{file} is missing"));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    Ok(())
}

/// The oldest Rust that compiles the workspace.
fn rust_version() -> Result<String> {
    let manifest = fs::read_to_string(workspace::root().join("Cargo.toml"))?;
    let manifest: toml::Table = manifest.parse().context("Cargo.toml")?;
    let package = manifest.get("workspace").and_then(|all| all.get("package"));
    let version = package.and_then(|package| package.get("rust-version")?.as_str());
    Ok(version
        .context("the workspace has no rust-version")?
        .to_owned())
}

fn manifest_complaints(manifest: &toml::Table, published: bool) -> Vec<String> {
    let inherits = |table: &str, key: &str| {
        let table = manifest.get(table);
        let value = if key.is_empty() {
            table
        } else {
            table.and_then(|table| table.get(key))
        };
        value
            .and_then(|value| value.get("workspace"))
            .and_then(toml::Value::as_bool)
            == Some(true)
    };
    let mut complaints = Vec::new();
    for key in INHERITED
        .into_iter()
        .filter(|key| !inherits("package", key))
    {
        complaints.push(format!("{key} is not the workspace's"));
    }
    if !inherits("lints", "") {
        complaints.push("its lints are not the workspace's".into());
    }
    let own = manifest.get("package").and_then(toml::Value::as_table);
    let lacks = |key: &str| own.is_none_or(|package| !package.contains_key(key));
    for key in PUBLISHED.into_iter().filter(|key| published && lacks(key)) {
        complaints.push(format!("it is published and has no {key}"));
    }
    let docs = own.and_then(|package| package.get("metadata")?.get("docs")?.get("rs"));
    let shows_all = docs.and_then(|docs| docs.get("all-features")?.as_bool());
    if published && shows_all != Some(true) {
        complaints.push("docs.rs would not show every feature".into());
    }
    complaints
}

/// Whether a source file starts with docs, written in it or included from a README.
fn has_docs(source: &str) -> bool {
    source.starts_with("//! ") || source.starts_with("#![doc = include_str!(")
}

/// Whether a row of a Markdown table names the crate in backticks.
fn in_table(text: &str, name: &str) -> bool {
    let quoted = format!("`{name}`");
    text.lines()
        .any(|line| line.starts_with('|') && line.contains(&quoted))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn manifest(without: &str) -> toml::Table {
        let inherited = INHERITED
            .map(|key| format!("{key}.workspace = true\n"))
            .concat();
        let own = PUBLISHED.map(|key| format!("{key} = \"x\"\n")).concat();
        let docs = "[package.metadata.docs.rs]\nall-features = true\n";
        let all = format!("[package]\n{inherited}{own}[lints]\nworkspace = true\n{docs}");
        let lines = all.lines().filter(|line| !line.starts_with(without));
        lines.collect::<Vec<_>>().join("\n").parse().unwrap()
    }

    #[test]
    fn a_manifest_with_everything_passes() {
        assert_eq!(
            manifest_complaints(&manifest("nothing"), true),
            Vec::<String>::new()
        );
    }

    #[test]
    fn whatever_a_manifest_lacks_is_named() {
        let others = ["workspace", "all-features"];
        for key in INHERITED.into_iter().chain(PUBLISHED).chain(others) {
            let complaints = manifest_complaints(&manifest(key), true);
            assert_eq!(complaints.len(), 1, "{key}: {complaints:?}");
        }
        let own = "[package]\nversion = \"1.0.0\"".parse().unwrap();
        assert!(
            manifest_complaints(&own, false)
                .iter()
                .any(|complaint| complaint.contains("version"))
        );
    }

    #[test]
    fn what_is_not_published_needs_no_words_for_the_registry() {
        for key in PUBLISHED {
            assert_eq!(
                manifest_complaints(&manifest(key), false),
                Vec::<String>::new()
            );
        }
    }

    #[test]
    fn a_file_with_code_first_has_no_docs() {
        assert!(has_docs("//! Docs.\n") && has_docs("#![doc = include_str!(\"../README.md\")]\n"));
        assert!(!has_docs("mod a;\n//! Docs.\n") && !has_docs(""));
    }

    #[test]
    fn a_crate_is_looked_for_in_tables_and_by_its_whole_name() {
        let text = "`murmur-a`\n| [`murmur-state-ddb`](x) | stores |\n";
        assert!(in_table(text, "murmur-state-ddb"));
        assert!(!in_table(text, "murmur-a") && !in_table(text, "murmur-state"));
    }
}
