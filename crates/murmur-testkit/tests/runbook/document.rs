//! What the runbook names is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

const RUNBOOK: &str = include_str!("../../../../docs/runbook.md");
const SCENES: [&str; 4] = [
    include_str!("steps.rs"),
    include_str!("broken.rs"),
    include_str!("settled.rs"),
    include_str!("without_lambda.rs"),
];

/// The tests of these files.
fn scenes() -> BTreeSet<&'static str> {
    let lines = SCENES.iter().flat_map(|scenes| scenes.lines());
    let lines: Vec<&str> = lines.collect();
    let tests = lines
        .windows(2)
        .filter(|pair| pair[0].contains("tokio::test"));
    let names = tests.filter_map(|pair| pair[1].strip_prefix("async fn ")?.split('(').next());
    names.collect()
}

/// The tests that each paragraph of this kind names, of one section.
fn named<'a>(section: &'a str, kind: &'a str) -> impl Iterator<Item = &'a str> {
    let paragraphs = section.split("\n\n");
    let paragraphs = paragraphs.filter_map(move |paragraph| paragraph.strip_prefix(kind));
    paragraphs.flat_map(|names| names.split('`').skip(1).step_by(2))
}

#[test]
fn the_runbook_names_each_scene_and_none_that_is_not_there() {
    assert!(scenes().len() > 10, "{:?}", scenes());
    let played: BTreeSet<&str> = named(RUNBOOK, "Played: ").collect();
    assert_eq!(played, scenes());
    for test in named(RUNBOOK, "Tested: ") {
        let (file, name) = test.split_once("::").unwrap();
        let file = Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(file);
        let source = fs::read_to_string(&file).unwrap();
        assert!(source.contains(&format!("fn {name}(")), "{test}");
    }
}

#[test]
fn each_of_its_sections_names_a_test() {
    let sections: Vec<&str> = RUNBOOK.split("\n### ").skip(1).collect();
    assert!(sections.len() > 10);
    for section in sections {
        let title = section.lines().next();
        let both = named(section, "Played: ").chain(named(section, "Tested: "));
        assert!(both.count() > 0, "{title:?}");
    }
}
