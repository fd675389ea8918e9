//! Checks the documentation: links must lead somewhere, files and tests that the pages name must
//! exist, and the messages that they explain must be those of the code.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use super::docs::{missing_test, quoted, source_text};
use crate::workspace;

/// The pages outside `docs/`.
const PAGES: [&str; 4] = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "examples/order-totals/README.md",
];

/// The page that must name a test for each promise.
const PROMISES: &str = "docs/promises.md";

/// The page whose headings in backticks are messages of the code. `…` stands for a variable part.
const MESSAGES: &str = "docs/troubleshooting.md";

/// The page that lists the others, for the book.
const SUMMARY: &str = "docs/SUMMARY.md";

/// A name in backticks that starts with one of these is a path of the repository.
const FOLDERS: [&str; 4] = ["crates/", "docs/", "examples/", "xtask/"];

/// Reports all errors at once.
pub(super) fn check() -> Result<()> {
    let root = workspace::root();
    let mut pages: Vec<PathBuf> = PAGES.iter().map(PathBuf::from).collect();
    for entry in fs::read_dir(root.join("docs")).context("docs")? {
        let name = entry?.file_name();
        if Path::new(&name).extension().is_some_and(|ext| ext == "md") {
            pages.push(Path::new("docs").join(name));
        }
    }
    let summary = fs::read_to_string(root.join(SUMMARY)).context(SUMMARY)?;
    let mut wrong = unlisted(&pages, &summary);
    let (mut links, mut tests) = (0, 0);
    for page in &pages {
        let text = fs::read_to_string(root.join(page)).context(page.display().to_string())?;
        let prose = prose(&text);
        let mut complaints = Vec::new();
        let targets = targets(&prose);
        links += targets.len();
        complaints.extend(targets.iter().filter_map(|to| dead_link(root, page, to)));
        for name in prose.iter().flat_map(|line| quoted(line)) {
            if name.contains(".rs::") {
                tests += 1;
                complaints.extend(missing_test(root, name));
            } else if FOLDERS.iter().any(|folder| name.starts_with(folder)) {
                let missing = !name.contains(' ') && !root.join(name).exists();
                complaints.extend(missing.then(|| format!("there is no `{name}`")));
            }
        }
        if page == Path::new(PROMISES) && !prose.iter().any(|line| line.contains(".rs::")) {
            complaints.push("it names no test for what it promises".to_owned());
        }
        if page == Path::new(MESSAGES) {
            let sources = joined(&source_text(&root.join("crates")));
            complaints.extend(unknown_messages(&prose, &sources));
        }
        let named = |complaint| format!("{}: {complaint}", page.display());
        wrong.extend(complaints.into_iter().map(named));
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!(
        "{} pages: {links} links lead somewhere, {tests} tests exist",
        pages.len()
    );
    Ok(())
}

/// Error messages for pages of `docs/` that the book would omit.
fn unlisted(pages: &[PathBuf], summary: &str) -> Vec<String> {
    let pages = pages.iter().filter(|page| page.starts_with("docs"));
    let names = pages.filter_map(|page| page.file_name()?.to_str());
    names
        .filter(|name| !SUMMARY.ends_with(name) && !summary.contains(&format!("({name})")))
        .map(|name| format!("{SUMMARY}: it does not list {name}"))
        .collect()
}

/// The lines outside code blocks.
fn prose(text: &str) -> Vec<&str> {
    let mut code = false;
    let outside = |line: &&str| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    };
    text.lines().filter(outside).collect()
}

/// The targets of the links in these lines. The text of a link may start on the line before.
fn targets(prose: &[&str]) -> Vec<String> {
    let link = |part: &str| part.split_once(')').map(|(target, _)| target.to_owned());
    prose
        .iter()
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(link)
        .collect()
}

/// An error message if `page` links to a file, or a heading in a file, that does not exist.
fn dead_link(root: &Path, page: &Path, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (file, heading) = match target.split_once('#') {
        Some((file, heading)) => (file, Some(heading)),
        None => (target, None),
    };
    let folder = page.parent().unwrap_or(Path::new(""));
    let path = match file {
        "" => root.join(page),
        file => root.join(folder).join(file),
    };
    if !path.exists() {
        return Some(format!("the link `{target}` leads to no file"));
    }
    let heading = heading?;
    let text = fs::read_to_string(path).unwrap_or_default();
    let found = anchors(&prose(&text)).contains(heading);
    (!found).then(|| format!("the link `{target}` leads to no heading"))
}

/// The anchors of the headings, as GitHub and mdBook generate them.
fn anchors(prose: &[&str]) -> BTreeSet<String> {
    let headings = prose.iter().filter(|line| line.starts_with('#'));
    let anchor = |line: &&str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter_map(|c| match c {
            ' ' => Some('-'),
            '-' | '_' => Some(c),
            c => c.is_alphanumeric().then_some(c),
        });
        kept.collect()
    };
    headings.map(anchor).collect()
}

/// Error messages for headings in backticks with a part that is in no source.
fn unknown_messages(prose: &[&str], sources: &str) -> Vec<String> {
    let messages = prose.iter().filter_map(|line| line.strip_prefix("### `"));
    let parts = messages.flat_map(|message| message.trim_end_matches('`').split('…'));
    parts
        .map(|part| part.trim_matches([' ', ':', ',', ';']))
        .filter(|part| !sources.contains(*part))
        .map(|part| format!("no message of the code has `{part}`"))
        .collect()
}

/// `source` with each multi-line string joined into one line.
fn joined(source: &str) -> String {
    let mut lines = source.split("\\\n");
    let first = lines.next().unwrap_or_default().to_owned();
    lines.fold(first, |text, line| text + line.trim_start())
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn folder() -> TempDir {
        let folder = TempDir::new().unwrap();
        fs::create_dir(folder.path().join("docs")).unwrap();
        let text = "# A page\n## What `Max` is, in short\n```sh\n# no heading\n```\n";
        fs::write(folder.path().join("docs/a.md"), text).unwrap();
        fs::write(folder.path().join("README.md"), "# Readme\n").unwrap();
        folder
    }

    #[test]
    fn links_are_found_in_prose_and_not_in_code() {
        let text = "see [a](a.md) and [b\nc](../b.md#x)\n```\n[no](no.md)\n```\n[d](https://d)\n";
        assert_eq!(targets(&prose(text)), ["a.md", "../b.md#x", "https://d"]);
    }

    #[test]
    fn links_that_lead_somewhere_pass() {
        let folder = folder();
        for target in [
            "a.md",
            "#a-page",
            "../README.md#readme",
            "a.md#what-max-is-in-short",
            "https://example.com/none.md",
            "..",
        ] {
            let complaint = dead_link(folder.path(), Path::new("docs/a.md"), target);
            assert_eq!(complaint, None, "{target}");
        }
    }

    #[test]
    fn a_link_that_leads_nowhere_is_named() {
        let folder = folder();
        for target in ["b.md", "README.md", "#no-heading", "../README.md#a-page"] {
            let complaint = dead_link(folder.path(), Path::new("docs/a.md"), target);
            assert!(
                complaint.is_some_and(|told| told.contains(target)),
                "{target}"
            );
        }
    }

    #[test]
    fn a_page_that_the_book_would_leave_out_is_named() {
        let pages = ["README.md", "docs/SUMMARY.md", "docs/a.md", "docs/b.md"].map(PathBuf::from);
        let complaints = unlisted(&pages, "- [A](a.md)\n");
        assert_eq!(complaints, ["docs/SUMMARY.md: it does not list b.md"]);
    }

    #[test]
    fn a_message_that_no_source_has_is_named() {
        let sources = joined("error(\"table `{table}` is \\\n      not there; make it\")");
        let page = [
            "### `table …: gone`",
            "### `is not there; make it`",
            "### Other",
        ];
        let complaints = unknown_messages(&page, &sources);
        assert_eq!(complaints, ["no message of the code has `gone`"]);
    }
}
