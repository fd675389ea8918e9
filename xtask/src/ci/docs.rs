//! Checks `docs/from-go.md`: every name and every test in its tables must exist.
//!
//! A row is `| name in Go | names here | tests | remark |`. Names are Rust paths in backticks,
//! `murmur_state_ddb::Int64SumStore::new`; tests are `crates/x/tests/y.rs::test_name` or
//! `crates/x/src/y.rs::tests::test_name`. A row without a name or without a test has `—` there, and
//! the reason in the remark.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace;

const FILE: &str = "docs/from-go.md";

/// Looks up every name and test in the file, and reports all missing ones at once.
pub(super) fn check() -> Result<()> {
    let text = fs::read_to_string(workspace::root().join(FILE)).context(FILE)?;
    let rows = rows(&text);
    if rows.is_empty() {
        bail!("{FILE} has no table");
    }
    let mut wrong = Vec::new();
    for row in &rows {
        for complaint in row.complaints(workspace::root()) {
            wrong.push(format!("{FILE}:{}: {complaint}", row.line));
        }
    }
    if !wrong.is_empty() {
        bail!("{}", wrong.join("\n"));
    }
    println!("{} rows of {FILE} hold", rows.len());
    Ok(())
}

/// A row of a table, without its headings.
struct Row {
    line: usize,
    cells: Vec<String>,
}

/// The rows of all tables in `text`.
fn rows(text: &str) -> Vec<Row> {
    let is_table = |line: &str| line.trim_start().starts_with('|');
    let lines: Vec<&str> = text.lines().collect();
    let mut rows = Vec::new();
    for (index, line) in lines.iter().enumerate() {
        let heading = lines.get(index + 1).is_some_and(|next| is_rule(next));
        if is_table(line) && !is_rule(line) && !heading {
            rows.push(Row {
                line: index + 1,
                cells: cells(line),
            });
        }
    }
    rows
}

/// Whether it is the line between the headings and the rows.
fn is_rule(line: &str) -> bool {
    line.trim_start().starts_with('|') && line.chars().all(|c| "|-: \t".contains(c))
}

/// The cells of a row. `\|` is a literal bar.
fn cells(line: &str) -> Vec<String> {
    let line = line.trim().replace("\\|", "\u{0}");
    let inner = line.trim_start_matches('|').trim_end_matches('|');
    inner
        .split('|')
        .map(|cell| cell.trim().replace('\u{0}', "|"))
        .collect()
}

impl Row {
    fn complaints(&self, root: &Path) -> Vec<String> {
        let [_, names, tests, .., remark] = self.cells.as_slice() else {
            return vec!["four columns are needed".into()];
        };
        let mut complaints = Vec::new();
        for (what, cell) in [("name", names), ("test", tests)] {
            if quoted(cell).is_empty() && !cell.contains('—') {
                complaints.push(format!("no {what} in backticks, and no — for none"));
            }
            if cell.contains('—') && remark.trim_matches(['—', ' ']).is_empty() {
                complaints.push(format!("no {what}, and the last column does not say why"));
            }
        }
        let missing_names = quoted(names)
            .into_iter()
            .filter_map(|name| missing_name(root, name));
        complaints.extend(missing_names);
        complaints.extend(
            quoted(tests)
                .into_iter()
                .filter_map(|test| missing_test(root, test)),
        );
        complaints
    }
}

/// The texts in backticks.
pub(super) fn quoted(cell: &str) -> Vec<&str> {
    cell.split('`').skip(1).step_by(2).map(str::trim).collect()
}

/// An error message if `test`, a file and a test in it, does not exist.
pub(super) fn missing_test(root: &Path, test: &str) -> Option<String> {
    let Some((file, path)) = test
        .split_once("::")
        .filter(|(file, _)| file.ends_with(".rs"))
    else {
        return Some(format!(
            "`{test}` is not of the form `crates/x/tests/y.rs::test_name`"
        ));
    };
    let Ok(source) = fs::read_to_string(root.join(file)) else {
        return Some(format!("`{test}`: there is no file {file}"));
    };
    let name = path.rsplit("::").next().unwrap_or(path);
    let found = source.lines().any(|line| declares(line, &["fn"], name));
    (!found).then(|| format!("`{test}`: there is no `fn {name}` in {file}"))
}

/// An error message if `name`, a Rust path that starts with a crate of ours, does not exist.
fn missing_name(root: &Path, name: &str) -> Option<String> {
    let path = without_generics(name.trim_end_matches("()"));
    let mut segments = path.split("::").filter(|segment| !segment.is_empty());
    let package = segments.next().unwrap_or_default().replace('_', "-");
    let source = root.join("crates").join(&package).join("src");
    let mut segments = segments.peekable();
    if segments.peek().is_none() || !source.is_dir() {
        return Some(format!(
            "`{name}` is not of the form `murmur_x::Type::function`"
        ));
    }
    let source = source_text(&source);
    let missing = segments.find(|segment| {
        !is_exported(&source, segment) && !source.lines().any(|line| is_item(line, segment))
    });
    missing.map(|segment| format!("`{name}`: nothing is called {segment} in {package}"))
}

/// `Sum::<i64>::new` without the text between angle brackets.
fn without_generics(path: &str) -> String {
    let mut depth = 0_usize;
    path.chars()
        .filter(|c| {
            depth += usize::from(*c == '<');
            let outside = depth == 0;
            depth -= usize::from(*c == '>' && depth > 0);
            outside
        })
        .collect()
}

/// The text of all Rust sources in `folder`.
pub(super) fn source_text(folder: &Path) -> String {
    let mut folders: Vec<PathBuf> = vec![folder.to_owned()];
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for path in fs::read_dir(folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path())
        {
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                text += &fs::read_to_string(path).unwrap_or_default();
                text.push('\n');
            }
        }
    }
    text
}

/// Whether a `pub use` names it. That compiles only if the name exists, and finds items that a
/// macro declares.
fn is_exported(source: &str, name: &str) -> bool {
    let uses = source
        .split("\npub use ")
        .skip(1)
        .filter_map(|rest| rest.split(';').next());
    uses.flat_map(|list| list.split(|c: char| !c.is_alphanumeric() && c != '_'))
        .any(|word| word == name)
}

/// Whether `line` declares an item, a field or an enum variant called `name`.
fn is_item(line: &str, name: &str) -> bool {
    const KINDS: &[&str] = &[
        "fn", "struct", "enum", "trait", "const", "type", "mod", "static",
    ];
    if declares(line, KINDS, name) {
        return true;
    }
    let line = line.trim_start();
    let field = line
        .strip_prefix("pub ")
        .and_then(|line| line.strip_prefix(name));
    if field.is_some_and(|rest| rest.starts_with(':')) {
        return true;
    }
    // A variant: its name is at the start of a line, before its fields or a comma.
    let upper = name.starts_with(|c: char| c.is_ascii_uppercase());
    let rest = line.strip_prefix(name).map(str::trim_start);
    upper && rest.is_some_and(|rest| rest == "," || rest.starts_with(['(', '{']))
}

/// Whether `line` declares `name` with one of the keywords in `kinds`.
fn declares(line: &str, kinds: &[&str], name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let words: Vec<&str> = code.split_whitespace().collect();
    words.windows(2).any(|pair| {
        let rest = pair[1].strip_prefix(name);
        let ends =
            rest.is_some_and(|rest| !rest.starts_with(|c: char| c.is_alphanumeric() || c == '_'));
        kinds.contains(&pair[0]) && ends
    })
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    const TEXT: &str = "\
# From Go

| Go | here | tests | remark |
|---|:--|---|---|
| `A` | `murmur_x::Sum::<i64>::new` | `crates/murmur-x/tests/t.rs::it_adds` | |
| `B` | — | — | not needed \\| no |
";

    /// A workspace with one crate.
    fn workspace() -> TempDir {
        let folder = TempDir::new().unwrap();
        for (file, text) in [
            (
                "src/lib.rs",
                "mod sum;\npub use sum::{\n    ByMacro, Sum,\n};\n",
            ),
            (
                "src/sum/mod.rs",
                "pub struct Sum<T>(T);\nimpl Sum { pub const fn new() {} }\n",
            ),
            (
                "src/mode.rs",
                "pub enum Mode {\n    Fast,\n    Slow { by: u8 },\n}\n",
            ),
            (
                "tests/t.rs",
                "#[test]\nfn it_adds() {}\n// fn not_this() {}\n",
            ),
        ] {
            let path = folder.path().join("crates/murmur-x").join(file);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        folder
    }

    fn complaints(row: &str) -> Vec<String> {
        Row {
            line: 1,
            cells: cells(row),
        }
        .complaints(workspace().path())
    }

    #[test]
    fn rows_are_found_without_their_headings() {
        let rows = rows(TEXT);
        let lines: Vec<_> = rows.iter().map(|row| row.line).collect();
        assert_eq!(lines, [5, 6]);
        assert_eq!(rows[1].cells[3], "not needed | no");
    }

    #[test]
    fn rows_that_hold_pass() {
        for row in rows(TEXT) {
            assert_eq!(row.complaints(workspace().path()), Vec::<String>::new());
        }
        let row = "| Go | `murmur_x::Mode::Fast`, `murmur_x::Mode::Slow` | — | an enum |";
        assert_eq!(complaints(row), Vec::<String>::new());
    }

    #[test]
    fn what_a_macro_declares_is_found_where_it_is_exported() {
        let row = "| Go | `murmur_x::ByMacro::new` | `crates/murmur-x/tests/t.rs::it_adds` | |";
        assert_eq!(complaints(row), Vec::<String>::new());
    }

    #[test]
    fn a_name_that_is_gone_is_named() {
        for (path, segment) in [
            ("murmur_x::Sum::gone", "gone"),
            ("murmur_x::Gone::new", "Gone"),
            ("murmur_x::Su", "Su"),
            ("murmur_x::Mode::Fas", "Fas"),
        ] {
            let row = format!("| Go | `{path}` | `crates/murmur-x/tests/t.rs::it_adds` | |");
            let expected = format!("`{path}`: nothing is called {segment} in murmur-x");
            assert_eq!(complaints(&row), [expected]);
        }
        let row = "| Go | `murmur_y::Sum` | `crates/murmur-x/tests/t.rs::it_adds` | |";
        assert_eq!(complaints(row).len(), 1);
    }

    #[test]
    fn a_test_that_is_gone_is_named() {
        for test in ["t.rs::it_add", "t.rs::not_this", "u.rs::it_adds"] {
            let row = format!("| Go | `murmur_x::Sum` | `crates/murmur-x/tests/{test}` | |");
            let complaints = complaints(&row);
            assert!(
                complaints.len() == 1 && complaints[0].contains(test),
                "{complaints:?}"
            );
        }
        assert_eq!(
            complaints("| Go | `murmur_x::Sum` | `it_adds` | |").len(),
            1
        );
    }

    #[test]
    fn nothing_here_needs_a_reason_and_an_empty_cell_is_none() {
        assert_eq!(complaints("| Go | — | — | |").len(), 2);
        assert_eq!(complaints("| Go | — | — | — |").len(), 2);
        assert_eq!(complaints("| Go |  |  | because |").len(), 2);
        assert_eq!(complaints("| Go | `murmur_x::Sum` |").len(), 1);
    }
}
